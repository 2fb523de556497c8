"""The CUDA backend on a fake ONNX Runtime: memory, graphs, faults."""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from support import fake_onnxruntime
from support.bodies import some_hu
from support.fake_onnxruntime import FakeCuda
from support.fake_pycuda import DriverLibrary, FakeGpu
from support.tiny_bundle import reference, write_bundle

from clinreadnet.errors import (
    BackendError,
    BackendUnavailable,
    DeviceLost,
    InputError,
    PartialResult,
)
from clinreadnet.runtime import Session, gpu, verdict
from clinreadnet.runtime.backends import onnxruntime_cuda
from clinreadnet.runtime.backends.loading import SessionOptions, open_backend
from clinreadnet.runtime.backends.onnxruntime_cuda import BoundBatch, OnnxRuntimeCudaBackend
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.runtime.bundle.manifest import BatchRange
from clinreadnet.verify.record import record
from clinreadnet.verify.run import steps, verify_golden

BACKEND = "onnxruntime-cuda"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    device, fake = FakeGpu(), FakeCuda()
    monkeypatch.setattr(gpu, "load_driver", lambda: DriverLibrary(device))
    monkeypatch.setattr(verdict, "driver_version", lambda: "580.65.06")
    monkeypatch.setitem(sys.modules, "onnxruntime", fake.module())
    return fake


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", verifiable=True)


def right(session: Session, n: int) -> bool:
    scores, expected = session.score(some_hu(n)), reference(some_hu(n))
    return all(np.allclose(getattr(scores, k), v, rtol=1e-5) for k, v in expected.items())


@pytest.mark.parametrize("n", [1, 4, 9])
@pytest.mark.parametrize("workers", [1, 3])
def test_scores_are_the_references(cuda: FakeCuda, bundle: Path, n: int, workers: int) -> None:
    with Session(bundle, BACKEND, workers=workers) as session:
        assert (session.backend, session.batch) == (BACKEND, 4)
        assert right(session, n)


def test_a_float16_graph_has_float16_memory(cuda: FakeCuda, tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "half")
    with Session(path, BACKEND, precision="fp16") as session:
        expected = reference(some_hu(3))["score"]
        np.testing.assert_allclose(session.score(some_hu(3)).score, expected, rtol=5e-3)


def test_the_provider_gets_its_libraries_and_settings(
    cuda: FakeCuda, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Session(bundle, BACKEND).close()
    assert cuda.preloaded == 1 and capsys.readouterr().out == ""
    assert cuda.settings == [
        {
            "use_tf32": "0",
            "cudnn_conv_algo_search": "HEURISTIC",
            "device_id": "0",
            "enable_cuda_graph": "1",
        }
    ]


def test_an_onnxruntime_without_preload_dlls_works(
    cuda: FakeCuda, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sys.modules["onnxruntime"], "preload_dlls")
    with Session(bundle, BACKEND) as session:
        assert right(session, 2)


def test_graphs_are_replayed_and_nothing_is_allocated_after_warm_up(
    cuda: FakeCuda, bundle: Path
) -> None:
    with Session(bundle, BACKEND, batch=3) as session:
        assert session.describe()["backend_notes"] == []
        for n in (1, 2, 3):
            assert right(session, n)
        warm, replays = dict(cuda.allocated), cuda.replays
        for n in (3, 1, 8, 2):
            assert right(session, n)
        assert cuda.allocated == warm
        assert cuda.replays == replays + 6
    gc.collect()
    assert cuda.allocated == {0: 0}


def test_any_thread_may_call_and_gets_the_same_bits(cuda: FakeCuda, bundle: Path) -> None:
    """A graph can be replayed only by the thread that captured it."""
    with Session(bundle, BACKEND) as session:
        expected = session.score(some_hu(4))
        before = cuda.replays
        with ThreadPoolExecutor(8) as pool:
            for scores in pool.map(lambda _: session.score(some_hu(4)), range(16)):
                np.testing.assert_array_equal(scores.score, expected.score)
        assert cuda.replays == before + 16


def test_a_naive_backend_that_runs_on_every_thread_breaks_the_fake(
    cuda: FakeCuda, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If each call runs on its caller's thread, no graph is replayed."""

    class CallersThread(ThreadPoolExecutor):
        def submit(self, call: Any, *arguments: Any) -> Any:  # type: ignore[override]
            future: Future[Any] = Future()
            future.set_result(call(*arguments))
            return future

    monkeypatch.setattr(onnxruntime_cuda, "ThreadPoolExecutor", CallersThread)
    with Session(bundle, BACKEND) as session, ThreadPoolExecutor(1) as other:
        before = cuda.replays
        other.submit(session.score, some_hu(4)).result()
        assert cuda.replays == before


def test_a_naive_backend_that_binds_new_memory_reads_stale_results(
    cuda: FakeCuda, bundle: Path
) -> None:
    """A graph writes to the memory of its capture, so new memory keeps its NaN."""
    loaded = open_backend(BACKEND, bundle, load_manifest(bundle), SessionOptions())
    assert isinstance(loaded.backend, OnnxRuntimeCudaBackend)
    with closing(loaded.backend) as backend:
        for _ in range(3):
            outputs = BoundBatch(backend, 4, "77").run(some_hu(4)[:, None])
        assert np.isnan(outputs["score"]).all()


def test_two_runs_at_a_time_break_the_fake(cuda: FakeCuda, bundle: Path) -> None:
    with Session(bundle, BACKEND) as session:
        with cuda.running, pytest.raises(BackendError, match="two threads run a session"):
            session.score(some_hu(4))


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"captures": False}, "runs without CUDA graphs .*cannot use the graph capture feature"),
        ({"refuse_capture": {4}}, "runs without CUDA graphs .*CUDA failure 900"),
    ],
    ids=["session-refuses", "capture-fails"],
)
def test_where_capture_does_not_work_it_runs_without_and_says_so(
    cuda: FakeCuda, bundle: Path, change: dict[str, Any], note: str
) -> None:
    for name, value in change.items():
        setattr(cuda, name, value)
    with Session(bundle, BACKEND) as session:
        (text,) = session.describe()["backend_notes"]
        assert right(session, 4) and right(session, 3)
        assert cuda.replays == 0

    assert re.search(note, text) and "\n" not in text
    assert "enable_cuda_graph" not in cuda.settings[-1]


def test_one_size_that_cannot_be_captured_runs_without(cuda: FakeCuda, bundle: Path) -> None:
    cuda.refuse_capture = {3}
    with Session(bundle, BACKEND) as session:
        assert right(session, 3) and right(session, 4) and right(session, 3)
        (note,) = session.describe()["backend_notes"]
        assert note.startswith("batch 3 runs without a CUDA graph (")


def test_several_workers_run_without_graphs_and_say_so(cuda: FakeCuda, bundle: Path) -> None:
    with Session(bundle, BACKEND, workers=2) as session:
        (note,) = session.describe()["backend_notes"]
        assert note == "runs without CUDA graphs (workers=2 share one session)"
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(lambda n: right(session, n), (1, 4, 5, 2, 8)))


def test_little_memory_means_a_smaller_batch(cuda: FakeCuda, tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", batch=BatchRange(2, 8, 8))
    cuda.capacity = 7 * 2**20
    with Session(path, BACKEND) as session:
        assert session.batch == 4
        assert len(session.score(some_hu(4))) == 4
    gc.collect()
    cuda.capacity = 2**20
    with pytest.raises(BackendUnavailable, match="not even a batch of 2 fits"):
        Session(path, BACKEND)


def test_a_failed_run_leaves_the_others_and_a_lost_device_is_reported(
    cuda: FakeCuda, bundle: Path
) -> None:
    with Session(bundle, BACKEND, batch=2) as session:
        session.score(some_hu(2))
        cuda.fail_next = RuntimeError("Non-zero status code\nmore")
        with pytest.raises(PartialResult, match="2 of 4 .*Non-zero status code") as failure:
            session.score(some_hu(4))
        assert failure.value.done == [2, 3]
        cuda.fail_next = RuntimeError("CUDA failure 719: unspecified launch failure")
        with pytest.raises(DeviceLost, match="CUDA failure 719"):
            session.score(some_hu(2))
        assert right(session, 2)


def test_a_provider_that_does_not_start_is_refused(cuda: FakeCuda, bundle: Path) -> None:
    cuda.starts = False
    with pytest.raises(BackendUnavailable, match="is installed but does not start here"):
        Session(bundle, BACKEND)
    assert Session(bundle).backend == "onnxruntime-cpu"


def test_the_second_gpu_is_used_where_it_is_named(
    cuda: FakeCuda, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="device=1: one NVIDIA GPU is visible; it is 0"):
        Session(bundle, BACKEND, device=1)
    two = FakeGpu()
    two.devices = cuda.devices = 2
    monkeypatch.setattr(gpu, "load_driver", lambda: DriverLibrary(two))
    with Session(bundle, BACKEND, device=1) as session:
        assert right(session, 4)
        assert set(cuda.allocated) == {1} and cuda.settings[-1]["device_id"] == "1"
    with pytest.raises(InputError, match="device=7: 2 NVIDIA GPUs are visible; they are 0 to 1"):
        Session(bundle, BACKEND, device=7)


@pytest.mark.usefixtures("without_openvino")
def test_verify_runs_graphs_on_the_gpu_too_and_records_both(cuda: FakeCuda, bundle: Path) -> None:
    manifest = load_manifest(bundle)
    progress: list[int] = []
    report = verify_golden(bundle, manifest, progress.append)
    assert report.passed and sum(progress) == steps(manifest, 3, golden=True)
    (graph,) = report.artifacts
    (on_gpu,) = graph.records
    assert on_gpu.ran_on is not None and on_gpu.ran_on.backend == BACKEND
    assert on_gpu.ran_on.gpu == "Fake GPU" and "onnxruntime" in on_gpu.ran_on.libraries
    with Session(bundle, BACKEND) as session:
        assert session.describe()["self_test_slices"] == 3
    assert record(report, manifest).endswith("2 results recorded")
    with Session(bundle, BACKEND) as session:
        assert session.describe()["self_test_slices"] == 1
        json.dumps(session.describe())


def test_a_graph_that_is_wrong_on_the_gpu_alone_fails(
    cuda: FakeCuda, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[[Any], dict[str, Any]] = fake_onnxruntime.reference

    def wrong(hu: Any) -> dict[str, Any]:
        outputs = real(hu)
        outputs["score"][6:] += 0.5
        return outputs

    monkeypatch.setattr(fake_onnxruntime, "reference", wrong)
    manifest = load_manifest(bundle)
    report = verify_golden(bundle, manifest)
    (graph,) = report.artifacts
    assert graph.parity is not None and graph.parity.status == "passed"
    assert graph.records[0].status == "failed" and not report.passed
    assert "batch 8, position 6" in str(graph.records[0].reason)


def test_the_fake_has_no_name_that_the_real_onnxruntime_lacks() -> None:
    for name in ("update_inplace", "numpy", "ortvalue_from_shape_and_type"):
        assert hasattr(onnxruntime.OrtValue, name)
    for name in ("bind_ortvalue_input", "bind_ortvalue_output"):
        assert hasattr(onnxruntime.IOBinding, name)
    for name in ("io_binding", "run_with_iobinding", "get_providers"):
        assert hasattr(onnxruntime.InferenceSession, name)
    assert hasattr(onnxruntime.RunOptions, "add_run_config_entry")
    assert hasattr(onnxruntime, "preload_dlls")
