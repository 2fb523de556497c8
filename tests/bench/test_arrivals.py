"""Slices that arrive as LoadGen sends them, on a bundle of a few operators."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import recorded_run
from support.tiny_bundle import write_bundle

from bench.report.tables import arrivals_table, largest_rate
from bench.results import read_run
from bench.rows import ArrivalRow
from bench.sweeps.arrivals import run_scenario
from clinreadnet.errors import BackendError, InputError
from clinreadnet.runtime import Session
from clinreadnet.runtime.backends.onnxruntime import OnnxRuntimeBackend

ROOT = Path(__file__).parents[2]
SECONDS = 0.02
"""What a slice takes here."""
HU = np.random.default_rng(0).normal(40, 100, (3, 512, 512)).astype(np.float32)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Return a session whose every slice takes a known time."""
    with Session(write_bundle(tmp_path / "bundle"), "onnxruntime-cpu") as session:
        run = OnnxRuntimeBackend.run

        def slow(self: OnnxRuntimeBackend, hu: NDArray[Any]) -> Any:
            until = time.perf_counter() + SECONDS * len(hu)
            outputs = run(self, hu)
            time.sleep(max(until - time.perf_counter(), 0))
            return outputs

        monkeypatch.setattr(OnnxRuntimeBackend, "run", slow)
        yield session


@pytest.fixture(autouse=True)
def needs_loadgen() -> None:
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed: extra bench")


def test_one_after_another(session: Session) -> None:
    row = run_scenario(session, HU, "SingleStream", seconds=0.2, least=12)
    assert row.n >= 10 and row.rate is None  # it waits for the last ones
    assert SECONDS <= row.p50 <= row.p90 <= row.p99
    assert 0.5 / SECONDS < row.slices_per_second <= 1 / SECONDS


def test_all_at_once(session: Session) -> None:
    row = run_scenario(session, HU, "Offline", seconds=0.2, least=20, expected=50)
    assert row.n >= 20
    # The slice in the middle waits for half of the others.
    assert row.p50 > 0.4 * row.n * SECONDS
    assert row.p99 <= 1.01 * row.n / row.slices_per_second


def test_at_random_times_waiting_counts(session: Session) -> None:
    calm = run_scenario(session, HU, "Server", seconds=1, least=10, rate=0.2 / SECONDS)
    busy = run_scenario(session, HU, "Server", seconds=1, least=10, rate=2 / SECONDS)
    assert SECONDS <= calm.p50 < 2 * SECONDS
    assert busy.p99 > 10 * SECONDS and busy.p99 > 3 * calm.p99
    assert busy.rate == 2 / SECONDS and busy.slices_per_second < 1.05 / SECONDS


def test_a_slice_that_fails_ends_in_its_error(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: OnnxRuntimeBackend, hu: NDArray[Any]) -> Any:
        raise BackendError("it broke")

    monkeypatch.setattr(OnnxRuntimeBackend, "run", fail)
    with pytest.raises(BackendError, match="it broke"):
        run_scenario(session, HU, "Offline", seconds=0.1, least=5)


@pytest.mark.parametrize(
    ("scenario", "rate", "message"),
    [
        ("MultiStream", None, "none of SingleStream, Offline, Server"),
        ("Server", None, "Server needs the rate"),
        ("Offline", 3.0, "and it alone"),
        ("Server", 0.0, "rate=0.0: slices per second; give a number above 0"),
        ("Server", float("nan"), "rate=nan"),
    ],
)
def test_bad_arguments(session: Session, scenario: str, rate: float | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_scenario(session, HU, scenario, seconds=0.1, least=5, rate=rate)


def test_what_is_no_slice_is_refused_before_anything_is_sent(session: Session) -> None:
    with pytest.raises(InputError, match="512"):
        run_scenario(session, HU[0][:256], "Offline", seconds=0.1, least=5)


def test_the_bench_records_every_scenario(tmp_path: Path) -> None:
    bundle, path = write_bundle(tmp_path / "bundle"), tmp_path / "bench.json"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--quick", "-q"]
    done = subprocess.run(
        [*command, "bench/test_arrivals.py", f"--benchmark-json={path}"],
        cwd=ROOT,
        env=os.environ | {"CLINREADNET_BUNDLE": str(bundle)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    content = json.loads(path.read_text())
    content["commit_info"]["id"] = recorded_run.COMMIT
    content["machine_info"].setdefault("rates", {"copy": 1e10})
    path.write_text(json.dumps(content))
    run = read_run(path)
    assert [row.scenario for row in run.arrivals] == ["SingleStream", "Offline", *5 * ["Server"]]
    rates = [row.rate for row in run.arrivals[2:]]
    offline = run.arrivals[1].slices_per_second
    assert rates == pytest.approx([share * offline for share in (0.25, 0.5, 0.7, 0.8, 0.9)])
    assert len(arrivals_table(run).rows) == 7


def test_the_largest_rate_within_a_limit(tmp_path: Path) -> None:
    def row(rate: float, p99: float) -> dict[str, Any]:
        fresh = ArrivalRow("onnxruntime-cpu", "fp32", 1, "Server", rate, 600, rate, 0.2, 0.3, p99)
        return {"name": "a", "fullname": "bench/test_arrivals.py::a", "extra_info": fresh.to_json()}

    rows = [row(1.0, 0.4), row(2.0, 0.9), row(3.0, 1.5)]
    run = read_run(recorded_run.write(tmp_path, recorded_run.document(rows)))
    assert [ArrivalRow.from_json(row["extra_info"]) for row in rows] == list(run.arrivals)
    assert "within 1000 ms: 2 slices/s (onnxruntime-cpu fp32)" in largest_rate(run)
    assert "within 100 ms: none" in largest_rate(run, 0.1)
    assert largest_rate(read_run(recorded_run.write(tmp_path, recorded_run.document([])))) == ""


def test_too_few_slices_give_no_99th_percentile(tmp_path: Path) -> None:
    rows = [
        ArrivalRow("onnxruntime-cpu", "fp32", 1, "Server", 1.0, n, 1.0, 0.2, 0.3, 0.4)
        for n in (599, 600)
    ]
    benchmarks = [
        {"name": "a", "fullname": "bench/test_arrivals.py::a", "extra_info": row.to_json()}
        for row in rows
    ]
    run = read_run(recorded_run.write(tmp_path, recorded_run.document(benchmarks)))
    assert [row[7] for row in arrivals_table(run).rows] == ["", "400"]
    few = read_run(recorded_run.write(tmp_path, recorded_run.document(benchmarks[:1])))
    assert largest_rate(few) == ""
