"""`clinreadnet score` from DICOM files to scores: speed, start-up and memory on this machine.

Needs a bundle: CLINREADNET_BUNDLE, or `bundle` in the current folder. The baseline of the
throughput is the session alone, fed from memory; the difference is the cost of the files.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.sweeps.score import SLICES, peak_memory, write_series
from bench.sweeps.session import session_facts
from clinreadnet.data.slices import find_slices
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.default import default_bundle
from clinreadnet.scoring.run import score_slices

BUNDLE = default_bundle().resolve()

needs_bundle = pytest.mark.skipif(
    not BUNDLE.is_dir(), reason=f"no bundle at {BUNDLE}: run `clinreadnet export --out bundle`"
)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_series(tmp_path_factory.mktemp("series") / "short", SLICES)


def describe(benchmark: BenchmarkFixture, session: Session) -> None:
    if benchmark.stats is None:  # --quick
        return
    benchmark.extra_info |= session_facts(session) | {
        "slices": SLICES,
        "slices_per_second": SLICES / benchmark.stats.stats.min,
    }


@needs_bundle
def test_session_alone(benchmark: BenchmarkFixture, series: Path) -> None:
    session = Session(BUNDLE)
    hu = np.stack([ref.load() for ref in find_slices([series])])
    benchmark.pedantic(session.score, (hu,), rounds=3, warmup_rounds=1)
    describe(benchmark, session)


@needs_bundle
def test_files_included(benchmark: BenchmarkFixture, series: Path) -> None:
    session = Session(BUNDLE)
    benchmark.pedantic(
        lambda: score_slices(session, find_slices([series])), rounds=3, warmup_rounds=1
    )
    describe(benchmark, session)


@pytest.mark.parametrize(
    "statement",
    ["pass", "import numpy", "from clinreadnet.runtime import Session"],
    ids=["python", "numpy", "runtime"],
)
def test_start_up(benchmark: BenchmarkFixture, statement: str) -> None:
    benchmark.pedantic(
        subprocess.run,
        ([sys.executable, "-c", statement],),
        {"check": True},
        rounds=7,
        warmup_rounds=1,
    )


@needs_bundle
@pytest.mark.skipif(os.name != "posix", reason="peak memory needs a POSIX kernel")
@pytest.mark.parametrize("count", [60, 500])
def test_memory_of_the_command(
    quick: bool, benchmark: BenchmarkFixture, tmp_path: Path, count: int
) -> None:
    folder = write_series(tmp_path / "series", 2 if quick else count)
    start = time.perf_counter()
    peak = benchmark.pedantic(peak_memory, (folder, BUNDLE), rounds=1)
    seconds = time.perf_counter() - start
    benchmark.extra_info |= {
        "slices": count,
        "peak_mib": round(peak / 2**20),
        "slices_per_second_with_start_up": count / seconds,
    }
    assert peak < 2**30
