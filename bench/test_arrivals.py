"""Latency of slices that arrive one after another, all at once, or at random times.

Server runs at shares of the rate of Offline.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.run import TimedRow
from bench.sweeps.arrivals import SCENARIOS, SHARES, Arrivals, missing
from clinreadnet.runtime.bundle.default import default_bundle

BUNDLE = default_bundle().resolve()
MISSING = missing(BUNDLE)
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.fixture(scope="module")
def arrivals(quick: bool) -> Arrivals:
    return Arrivals(BUNDLE, quick=quick)


@pytest.mark.parametrize(
    ("scenario", "share"),
    [(value, None) for value in SCENARIOS if value != "Server"]
    + [("Server", value) for value in SHARES],
    ids=lambda value: (
        value if isinstance(value, str) else "" if value is None else f"{100 * value:.0f}"
    ),
)
def test_arrivals(
    record: Callable[[TimedRow], None], arrivals: Arrivals, scenario: str, share: float | None
) -> None:
    row = arrivals.row(scenario, share)
    record(TimedRow(row, [row.p50]))
