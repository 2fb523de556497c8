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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measure.networks import Candidate, Found, find
from bench.measure.timing import REPLAY
from clinreadnet.errors import InputError
from clinreadnet.runtime.gpu import find_gpus
from clinreadnet.scoring.series import default_bundle

GPU_BATCHES = (1, 2, 4, 8, 16, 32, 64)
CPU_BATCHES = (1, 2, 4, 8)
"""Larger batches are not faster on a processor, and each doubling doubles the time of the run."""

BUNDLE = default_bundle().resolve()
try:
    FOUND = find(BUNDLE)
except InputError as error:
    FOUND = Found((), {"bundle": str(error)})

pytestmark = pytest.mark.benchmark(timer=REPLAY)


def clocks(candidate: Candidate) -> tuple[str, ...]:
    return ("host",) if candidate.bind is None else ("host", "device", "device graph")


def rows() -> list[Any]:
    return [
        pytest.param(
            batch,
            clock,
            candidate,
            id=f"{candidate.title}-batch-{batch}-{clock.replace(' ', '-')}",
        )
        for batch in (GPU_BATCHES if find_gpus() else CPU_BATCHES)
        for candidate in FOUND.candidates
        if candidate.runs(batch)
        for clock in clocks(candidate)
    ]


@pytest.mark.parametrize(("batch", "clock", "candidate"), rows())
def test_network(
    groups: Any,
    record: Callable[[dict[str, Any]], None],
    batch: int,
    clock: str,
    candidate: Candidate,
) -> None:
    facts, failure = groups.row(batch, clock, candidate.title)
    if failure is not None:
        if "outside the profile" in failure:
            pytest.skip(failure)
        pytest.fail(failure, pytrace=False)
    record(facts)


@pytest.mark.parametrize("backend", sorted(FOUND.missing))
def test_missing(backend: str) -> None:
    """Skip each missing backend with a reason."""
    pytest.skip(FOUND.missing[backend])


@pytest.mark.parametrize("candidate", FOUND.candidates, ids=lambda c: c.title)
def test_cold_start(benchmark: BenchmarkFixture, candidate: Candidate) -> None:
    """A new process: import, load, first run of one slice, with empty compiler caches."""
    rounds = 1 if candidate.name in ("torch-compile", "torch-triton") else 3
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            child = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "bench.studies.cold_start",
                    BUNDLE,
                    candidate.title,
                ],
                stdout=subprocess.PIPE,
                check=True,
                cwd=Path(__file__).parents[1],
                env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": cache},
            )
        found.append(json.loads(child.stdout.splitlines()[-1]))
    totals = [one["load"] + one["first"] for one in found]
    benchmark.pedantic(REPLAY.through(totals), rounds=rounds)
    fastest = min(found, key=lambda one: one["load"] + one["first"])
    benchmark.extra_info |= {
        "op": "cold-start",
        "candidate": candidate.name,
        "precision": candidate.precision,
        "n": rounds,
        **fastest,
    }
