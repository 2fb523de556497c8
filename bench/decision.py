"""Decide whether a benchmark became slower, or how many more rounds are needed.

Medians are compared on a log scale. A slowdown of `SLOWER` must fail, and no change must pass. The
limit is halfway between: a row fails if it is significantly above, and passes if it is
significantly below. Undecided rows are measured again; `CONFIDENCE` is corrected for `LOOKS`
repeated tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist

from bench.rows import BenchRow

SLOWER = 1.10
"""Slowdown that must be detected."""
LIMIT = math.sqrt(SLOWER)
LOOKS = 8
"""Largest number of tests per row."""
CONFIDENCE = 1 - 0.05 / LOOKS
"""One-sided confidence of a test. Over all tests, at most 5 % of the verdicts are wrong."""

_QUANTILE = NormalDist().inv_cdf(CONFIDENCE)
_NEAR = 0.6 * math.log(LIMIT)
_QUANTILE_95 = NormalDist().inv_cdf(0.975)


class Verdict(Enum):
    """Verdict on a row."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class Times:
    """Statistics of a row's times for a comparison of medians.

    Attributes:
        log_median: natural logarithm of the median in seconds.
        error: standard error of ``log_median``.
        rounds: number of timed runs.
    """

    log_median: float
    error: float
    rounds: int

    @classmethod
    def of(cls, row: BenchRow) -> Times:
        """Return the statistics of a row; the interval of the median gives the error."""
        low, high = (math.log(seconds) for seconds in row.interval)
        return cls(math.log(row.p50), (high - low) / (2 * _QUANTILE_95), row.n)

    @classmethod
    def pooled(cls, runs: Sequence[Times]) -> Times:
        """Return the statistics of several measurements of a row, weighted by rounds."""
        rounds = sum(run.rounds for run in runs)
        shares = [run.rounds / rounds for run in runs]
        return cls(
            sum(share * run.log_median for share, run in zip(shares, runs, strict=True)),
            math.sqrt(sum((s * run.error) ** 2 for s, run in zip(shares, runs, strict=True))),
            rounds,
        )


@dataclass(frozen=True)
class Decision:
    """Comparison of a row with its recorded times.

    Attributes:
        verdict: verdict on the row.
        slowdown: new median over the recorded median.
        low: lower bound of the slowdown, one-sided at `CONFIDENCE`.
        high: upper bound of the slowdown.
        more: number of further rounds; 0 if decided, None if no number is enough because the
            recorded median is too uncertain.
    """

    verdict: Verdict
    slowdown: float
    low: float
    high: float
    more: int | None


def decide(before: Times, now: Times) -> Decision:
    """Compare a row's times with the recorded ones."""
    slowdown = now.log_median - before.log_median
    error = math.hypot(now.error, before.error)
    distance = slowdown - math.log(LIMIT)
    reach = _QUANTILE * error
    verdict, more = Verdict.INCONCLUSIVE, _more(before, now, distance)
    if abs(distance) > reach:
        verdict, more = (Verdict.FAIL if distance > 0 else Verdict.PASS), 0
    return Decision(
        verdict,
        math.exp(slowdown),
        math.exp(slowdown - reach),
        math.exp(slowdown + reach),
        more,
    )


def _more(before: Times, now: Times, distance: float) -> int | None:
    """Return the number of further rounds until the interval excludes the limit.

    The distance of the median from the limit counts as at least `_NEAR`.
    """
    allowed = (max(abs(distance), _NEAR) / _QUANTILE) ** 2 - before.error**2
    if allowed <= 0:
        return None
    return max(1, math.ceil(now.rounds * (now.error**2 / allowed - 1)))
