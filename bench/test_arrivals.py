"""Latency of slices that arrive one after another, all at once, or at random times.

Server runs at shares of the rate that Offline reached.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import pytest

from bench.measure.arrivals import SCENARIOS, load_generator, run_scenario
from bench.measure.timing import REPLAY
from bench.rows import ArrivalRow
from clinreadnet.data.plausibility import implausible
from clinreadnet.errors import BackendUnavailable
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.default import default_bundle
from clinreadnet.runtime.bundle.golden import read_golden

SHARES = (0.25, 0.5, 0.7, 0.8, 0.9)
FULL, QUICK = (40.0, 100), (0.5, 4)
"""Least seconds and slices of a scenario."""
BUNDLE = default_bundle().resolve()


def missing() -> str | None:
    if not BUNDLE.is_dir():
        return f"no bundle at {BUNDLE}: run `clinreadnet export --out bundle`"
    try:
        load_generator()
    except BackendUnavailable as error:
        return str(error)
    return None


MISSING = missing()
pytestmark = [
    pytest.mark.benchmark(timer=REPLAY),
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]


@pytest.fixture(scope="module")
def arrive(request: pytest.FixtureRequest) -> Callable[[str, float | None], ArrivalRow]:
    """Return what runs a scenario, Server at a share of Offline's rate; each runs once."""
    session = Session(BUNDLE)
    golden = read_golden(BUNDLE, session.manifest.golden, session.manifest.outputs)["hu"]
    hu = golden[[implausible(one) is None for one in golden]]  # air and noise are refused
    seconds, least = QUICK if request.config.getoption("--quick") else FULL

    @functools.cache
    def run(scenario: str, share: float | None) -> ArrivalRow:
        single = None if scenario == "SingleStream" else run("SingleStream", None)
        rate = None if share is None else share * run("Offline", None).slices_per_second
        expected = 10.0 if single is None else single.slices_per_second
        return run_scenario(
            session, hu, scenario, seconds=seconds, least=least, rate=rate, expected=expected
        )

    return run


@pytest.mark.parametrize(
    ("scenario", "share"),
    [(one, None) for one in SCENARIOS if one != "Server"] + [("Server", one) for one in SHARES],
    ids=lambda one: one if isinstance(one, str) else "" if one is None else f"{100 * one:.0f}",
)
def test_arrivals(
    record: Callable[[ArrivalRow, Sequence[float]], None],
    arrive: Callable[[str, float | None], ArrivalRow],
    scenario: str,
    share: float | None,
) -> None:
    row = arrive(scenario, share)
    record(row, [row.p50])
