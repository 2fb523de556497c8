"""The whole network on every backend of this machine, for one slice and for batches.

Times are wall time from slices to outputs in host memory and, on a GPU, CUDA events with the slices
in device memory, with and without a CUDA graph. All candidates of a batch alternate in one run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs PyTorch")

from bench.rows import row_id
from bench.run import TimedRow
from bench.sweeps.candidates import Candidate, Candidates, find
from bench.sweeps.network import cold_start, is_skipped, rows
from clinreadnet.errors import InputError
from clinreadnet.runtime.bundle.default import default_bundle

BUNDLE = default_bundle().resolve()
try:
    FOUND = find(BUNDLE)
except InputError as error:
    FOUND = Candidates((), {"bundle": str(error)})

ROWS: list[Any] = [
    pytest.param(group, candidate, id=row_id(candidate.name, candidate.precision, *group))
    for group, candidate in rows(FOUND.candidates)
]


@pytest.mark.parametrize(("group", "candidate"), ROWS, indirect=["group"], scope="session")
def test_network(
    group: Mapping[str, TimedRow | Exception],
    candidate: Candidate,
    record: Callable[[TimedRow], None],
) -> None:
    outcome = group[candidate.title]
    if isinstance(outcome, TimedRow):
        record(outcome)
    elif is_skipped(outcome, candidate):
        pytest.skip(str(outcome))
    else:
        pytest.fail(f"{type(outcome).__name__}: {outcome}", pytrace=False)


@pytest.mark.parametrize("backend", sorted(FOUND.missing))
def test_missing(backend: str) -> None:
    """Skip each missing backend with a reason."""
    pytest.skip(FOUND.missing[backend])


@pytest.mark.parametrize("candidate", FOUND.candidates, ids=lambda c: c.title)
def test_cold_start(candidate: Candidate, quick: bool, record: Callable[[TimedRow], None]) -> None:
    record(cold_start(BUNDLE, candidate, quick=quick))
