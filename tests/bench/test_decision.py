"""PASS, FAIL or INCONCLUSIVE, on random times with known medians."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from support import recorded_run

from bench.check import EXIT, compare, lines, verdict_of
from bench.decision import CONFIDENCE, LIMIT, Times, Verdict, decide
from bench.rows import BenchRow
from bench.statistics import median_interval, percentile

RUNS = 100


def timed(rng: np.random.Generator, median: float, variation: float, rounds: int) -> BenchRow:
    """Return a row of lognormal times, which have a lower bound and a tail like measured times."""
    spread = math.sqrt(math.log1p(variation**2))
    times = (median * np.exp(spread * rng.standard_normal(rounds))).tolist()
    facts = {"n": rounds, "interval": median_interval(times), "variation": variation}
    row = recorded_run.row("onnxruntime-cpu", "fp32", percentile(times, 50), **facts)
    return BenchRow.from_json(row["extra_info"])


def verdicts(slowdown: float, variation: float, *, recorded: int) -> list[Verdict]:
    results = []
    for seed in range(RUNS):
        rng = np.random.default_rng([seed, int(1000 * slowdown)])

        def again(
            names: Sequence[str], rounds: int, rng: np.random.Generator = rng
        ) -> list[BenchRow]:
            return [timed(rng, 0.15 * slowdown, variation, rounds)]

        before = timed(rng, 0.15, variation, recorded)
        now = timed(rng, 0.15 * slowdown, variation, 20)
        results.append(verdict_of(compare([before], [now], again, seconds=math.inf)))
    return results


@pytest.mark.parametrize(
    ("variation", "recorded"), [(0.05, 200), (0.2, 1000)], ids=["CV 5 %", "CV 20 %"]
)
def test_a_slowdown_of_10_percent_is_found_and_no_change_passes(
    variation: float, recorded: int
) -> None:
    slower = verdicts(1.10, variation, recorded=recorded)
    assert slower.count(Verdict.FAIL) >= 95 and Verdict.PASS not in slower
    same = verdicts(1.0, variation, recorded=recorded)
    assert same.count(Verdict.PASS) >= 95 and same.count(Verdict.FAIL) == 0


def test_a_recorded_run_that_is_too_uncertain_decides_nothing() -> None:
    results = verdicts(1.0, 0.2, recorded=20)
    assert results.count(Verdict.INCONCLUSIVE) >= 60 and Verdict.FAIL not in results[:20]
    before, now = Times(0.0, 0.1, 20), Times(0.05, 0.001, 10**6)
    assert decide(before, now).more is None
    rows = [timed(np.random.default_rng(0), 0.15, 0.2, 20)]
    found_rows = compare(rows, [timed(np.random.default_rng(1), 0.155, 0.2, 20)])
    (line,) = lines(found_rows, rows)
    assert line.startswith("INCONCLUSIVE test_network[") and "make bench-record" in line


def test_the_rounds_it_names_decide() -> None:
    before, now = Times(0.0, 0.001, 1000), Times(0.0, 0.05, 20)
    decision = decide(before, now)
    assert decision.verdict is Verdict.INCONCLUSIVE and decision.more is not None
    rounds = now.rounds + decision.more
    better = Times(0.0, now.error * math.sqrt(now.rounds / rounds), rounds)
    assert decide(before, better).verdict is Verdict.PASS
    worse = Times(0.0, now.error * math.sqrt(now.rounds / (0.9 * rounds)), rounds)
    assert decide(before, worse).verdict is Verdict.INCONCLUSIVE


def test_pooled_times_are_those_of_all_rounds() -> None:
    pooled = Times.pooled([Times(1.0, 0.2, 10), Times(2.0, 0.1, 30)])
    assert pooled.log_median == pytest.approx(1.75) and pooled.rounds == 40
    assert pooled.error == pytest.approx(math.hypot(0.25 * 0.2, 0.75 * 0.1))


def test_only_undecided_rows_are_measured_again_and_only_in_time() -> None:
    rng = np.random.default_rng(3)
    quiet = timed(rng, 0.15, 0.001, 50)
    noisy = [
        BenchRow.from_json(timed(rng, 0.15, 0.2, n).to_json() | {"batch": 2}) for n in (4000, 20)
    ]
    repeated: list[Sequence[str]] = []
    now = 0.0

    def again(names: Sequence[str], rounds: int) -> list[BenchRow]:
        nonlocal now
        repeated.append(names)
        now += 60.0
        return []

    compare([quiet, noisy[0]], [quiet, noisy[1]], again, seconds=100.0, clock=lambda: now)
    assert repeated == [[noisy[0].name]] * 2


def test_verdicts_have_an_exit_status_each() -> None:
    assert [EXIT[verdict] for verdict in Verdict] == [0, 1, 3]
    assert LIMIT**2 == pytest.approx(1.1) and CONFIDENCE > 0.99
