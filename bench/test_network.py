"""The whole network on every backend of this machine, for one slice and for batches.

Times are wall time from slices to outputs in host memory and, on a GPU, CUDA events with the slices
in device memory, with and without a CUDA graph. All candidates of a batch alternate in one run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.measure import device
from bench.measure.groups import Groups
from bench.measure.networks import Candidate, Candidates, find
from bench.measure.timing import REPLAY
from bench.rows import BenchRow, ColdStartRow, row_id
from clinreadnet.errors import InputError
from clinreadnet.runtime.bundle.default import default_bundle
from clinreadnet.runtime.gpu import find_gpus

GPU_BATCHES = (1, 2, 4, 8, 16, 32, 64)
CPU_BATCHES = (1, 2, 4, 8)
"""Larger batches are not faster on a processor, and each doubling doubles the time of the run."""

BUNDLE = default_bundle().resolve()
try:
    FOUND = find(BUNDLE)
except InputError as error:
    FOUND = Candidates((), {"bundle": str(error)})

pytestmark = pytest.mark.benchmark(timer=REPLAY)


def clocks(candidate: Candidate) -> tuple[str, ...]:
    return ("host",) if candidate.bind is None else ("host", "device", "device graph")


def rows() -> list[Any]:
    return [
        pytest.param(
            batch,
            clock,
            candidate,
            id=row_id(candidate.name, candidate.precision, batch, clock),
        )
        for batch in (GPU_BATCHES if find_gpus() or device.REHEARSED else CPU_BATCHES)
        for candidate in FOUND.candidates
        if candidate.runs(batch)
        for clock in clocks(candidate)
    ]


@pytest.mark.parametrize(("batch", "clock", "candidate"), rows())
def test_network(
    groups: Groups,
    record: Callable[[BenchRow, Sequence[float]], None],
    batch: int,
    clock: str,
    candidate: Candidate,
) -> None:
    found = groups.row(batch, clock, candidate.title)
    if isinstance(found, str):
        inexact = candidate.role == "peer" and "is not timed" in found
        if inexact or "outside the profile" in found:
            pytest.skip(found)
        pytest.fail(found, pytrace=False)
    record(found.row, found.seconds)


@pytest.mark.parametrize("backend", sorted(FOUND.missing))
def test_missing(backend: str) -> None:
    """Skip each missing backend with a reason."""
    pytest.skip(FOUND.missing[backend])


@pytest.mark.parametrize("candidate", FOUND.candidates, ids=lambda c: c.title)
def test_cold_start(
    request: pytest.FixtureRequest,
    record: Callable[[ColdStartRow, Sequence[float]], None],
    candidate: Candidate,
) -> None:
    """A new process: import, load, first run of one slice, with empty compiler caches."""
    once = candidate.name in ("torch-compile", "torch-triton") or request.config.getoption(
        "--quick"
    )
    rounds = 1 if once else 3
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            child = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "bench.measure.cold_start",
                    BUNDLE,
                    candidate.title,
                ],
                stdout=subprocess.PIPE,
                check=True,
                cwd=Path(__file__).parents[1],
                env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": cache},
            )
        found.append(json.loads(child.stdout.splitlines()[-1]))
    fastest = min(found, key=lambda one: one["load"] + one["first"])
    row = ColdStartRow(candidate.name, candidate.precision, rounds, **fastest)
    record(row, [one["load"] + one["first"] for one in found])
