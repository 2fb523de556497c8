"""The overhead of a `Session` over plain ONNX Runtime, and the time from start to first score.

Needs a bundle: CLINREADNET_BUNDLE, or `bundle` in the current folder. Baseline and session
alternate, so that other load on the machine affects both.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measure.sessions import session_facts
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.default import default_bundle
from clinreadnet.spec import OUTPUTS

BUNDLE = default_bundle().resolve()
ROUNDS = 40
OVERHEAD_LIMIT = 0.03
COLD_START_LIMIT = 1.5

needs_bundle = pytest.mark.skipif(
    not BUNDLE.is_dir(), reason=f"no bundle at {BUNDLE}: run `clinreadnet export --out bundle`"
)


def some_hu(dtype: str) -> np.ndarray:
    return np.random.default_rng(1).normal(40, 300, (1, 512, 512)).astype(dtype)


def surroundings() -> dict[str, Any]:
    """Return how busy the machine was: other load makes every number here larger."""
    return {
        "bundle": BUNDLE.name,
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "niceness": os.nice(0) if hasattr(os, "nice") else None,
    }


@needs_bundle
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_overhead_at_batch_1(benchmark: BenchmarkFixture, dtype: str) -> None:
    session = Session(BUNDLE, "onnxruntime-cpu")
    hu = some_hu(dtype)
    bare: Any = session._backend._session  # type: ignore[attr-defined]
    feed = {"hu": hu[:, None].astype(np.float32)}
    baseline: list[float] = []

    def run_baseline() -> None:
        start = time.perf_counter()
        bare.run(list(OUTPUTS), feed)
        baseline.append(time.perf_counter() - start)

    run_baseline()
    baseline.clear()
    benchmark.pedantic(session.score, (hu,), setup=run_baseline, rounds=ROUNDS, warmup_rounds=2)
    assert benchmark.stats is not None
    seconds = benchmark.stats.stats.data
    pairs = [one / other - 1 for one, other in zip(seconds, baseline[-len(seconds) :], strict=True)]
    overhead = statistics.median(pairs)
    benchmark.extra_info |= session_facts(session) | surroundings()
    benchmark.extra_info |= {
        "baseline_ms": [round(1e3 * f(baseline), 3) for f in (min, statistics.median)],
        "overhead": overhead,
        "overhead_of_best": min(seconds) / min(baseline) - 1,
    }
    assert overhead <= OVERHEAD_LIMIT


@needs_bundle
def test_cold_start_to_first_score(benchmark: BenchmarkFixture) -> None:
    code = (
        "import numpy as np; from clinreadnet.runtime import Session; "
        f"s = Session({str(BUNDLE)!r}, 'onnxruntime-cpu'); "
        "assert 0 <= s.score(np.full((1, 512, 512), 40, np.int16)).score[0] <= 4"
    )
    processor: list[float] = []

    def run() -> None:
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True)
        after = os.times()
        processor.append(sum(after[2:4]) - sum(before[2:4]))  # of the child, user and system

    benchmark.pedantic(run, rounds=15, warmup_rounds=1)
    benchmark.extra_info |= surroundings() | {"processor_seconds": statistics.median(processor)}
    assert benchmark.stats is not None
    assert benchmark.stats.stats.median <= COLD_START_LIMIT
