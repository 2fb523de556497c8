"""Overhead of a `Session` over ONNX Runtime, and time from start to first score.

Needs a bundle: CLINREADNET_BUNDLE, or `bundle` in the current folder.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.statistics import median_interval
from bench.sweeps.session import Timed, session_facts, some_hu, surroundings
from clinreadnet.library import engine_version
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.default import default_bundle

BUNDLE = default_bundle().resolve()
ROUNDS = 40
OVERHEAD_LIMIT = 0.03
COLD_START_LIMIT = 1.5

needs_bundle = pytest.mark.skipif(
    not BUNDLE.is_dir(), reason=f"no bundle at {BUNDLE}: run `clinreadnet export --out bundle`"
)


@needs_bundle
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_overhead_at_batch_1(
    benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Both times are from the same call, so that other load hardly changes their ratio."""
    session = Session(BUNDLE, "onnxruntime-cpu")
    backend: Any = session._backend  # the session is not part of the backend's interface
    timed = Timed(backend._session)
    monkeypatch.setattr(backend, "_session", timed)
    benchmark.pedantic(session.score, (some_hu(dtype),), rounds=ROUNDS, warmup_rounds=2)
    if benchmark.stats is None:  # --quick
        return
    inside = timed.seconds[-ROUNDS:]
    shares = [
        whole / run - 1 for whole, run in zip(benchmark.stats.stats.data, inside, strict=True)
    ]
    benchmark.extra_info |= session_facts(session) | surroundings(BUNDLE.name)
    benchmark.extra_info |= {
        "onnxruntime_ms": [round(1e3 * f(inside), 3) for f in (min, statistics.median)],
        "overhead": statistics.median(shares),
        "overhead_95": median_interval(shares),
    }
    assert statistics.median(shares) <= OVERHEAD_LIMIT


@needs_bundle
@pytest.mark.parametrize("regions", [True, False], ids=["regions", "no-regions"])
@pytest.mark.parametrize("n", [1, 8, 64], ids=["batch-1", "batch-8", "slices-64"])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_score_without_a_network(
    benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch, dtype: str, n: int, regions: bool
) -> None:
    """What the host does for a call, whatever runs the network: the backend returns at once."""
    session = Session(BUNDLE, "onnxruntime-cpu", batch=min(n, 8))
    hu = some_hu(dtype, n)
    outputs = session._backend.run(hu[: session.batch, None])
    monkeypatch.setattr(session._backend, "run", lambda hu: outputs)
    benchmark.pedantic(
        lambda: session.score(hu, 0.7, regions=regions), rounds=5 * ROUNDS, warmup_rounds=5
    )
    if benchmark.stats is None:  # --quick
        return
    benchmark.extra_info |= surroundings(BUNDLE.name) | {
        "library": engine_version(),
        "microseconds_a_slice": round(1e6 * benchmark.stats.stats.median / n, 1),
    }


@needs_bundle
def test_cold_start_to_first_score(benchmark: BenchmarkFixture) -> None:
    code = (
        "import numpy as np; from clinreadnet.runtime import Session; "
        f"s = Session({str(BUNDLE)!r}, 'onnxruntime-cpu'); "
        "hu = np.random.default_rng(1).normal(40, 300, (1, 512, 512)).astype(np.int16); "
        "assert 0 <= s.score(hu).score[0] <= 4"
    )
    processor: list[float] = []

    def run() -> None:
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True)
        after = os.times()
        processor.append(sum(after[2:4]) - sum(before[2:4]))  # of the child, user and system

    benchmark.pedantic(run, rounds=15, warmup_rounds=1)
    if benchmark.stats is None:  # --quick
        return
    benchmark.extra_info |= surroundings(BUNDLE.name) | {
        "processor_seconds": statistics.median(processor)
    }
    assert benchmark.stats.stats.median <= COLD_START_LIMIT
