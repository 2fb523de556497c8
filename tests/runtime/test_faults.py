"""A failing backend on the CPU, and very many calls."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from support.bodies import body
from support.tiny_bundle import reference, write_bundle
from support.whole import WHOLE

from clinreadnet.errors import BackendError, DeviceLost, OutOfMemory, PartialResult
from clinreadnet.runtime import Session
from clinreadnet.runtime.backends.onnxruntime import OnnxRuntimeBackend
from clinreadnet.runtime.bundle.manifest import BatchRange


def series(n: int) -> np.ndarray:
    """Return n slices whose last pixel is ten times their number."""
    return np.stack([body(10.0 * i) for i in range(n)])


class Broken:
    """Makes ONNX Runtime fail where one of these slices is in a batch."""

    def __init__(
        self, patch: pytest.MonkeyPatch, *slices: int, message: str = "node failed\nmore"
    ) -> None:
        self.calls = 0
        real = onnxruntime.InferenceSession.run

        def run(session: Any, names: Any, feed: dict[str, Any]) -> Any:
            self.calls += 1
            if any((feed["hu"][..., -1, -1] == 10 * value).any() for value in slices):
                raise RuntimeError(message)
            return real(session, names, feed)

        patch.setattr(onnxruntime.InferenceSession, "run", run)


@pytest.mark.parametrize("batch", [1, 2])
def test_slices_already_scored_are_returned_and_the_failed_ones_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    session = Session(bundle, "onnxruntime-cpu", batch=batch)
    Broken(monkeypatch, 2, 6)
    with pytest.raises(PartialResult) as failure:
        session.score(series(8))
    failed = [2, 6] if batch == 1 else [2, 3, 6, 7]
    done = [i for i in range(8) if i not in failed]
    assert (failure.value.failed, failure.value.done) == (failed, done)
    expected = reference(series(8)[done])
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(failure.value.scores, name), value, rtol=1e-5)
    assert f"{len(failed)} of 8 slices were not scored, the first is hu[2]" in str(failure.value)
    assert "node failed" in str(failure.value) and "\n" not in str(failure.value)
    assert len(session.score(series(2))) == 2


def test_a_series_that_fails_as_a_whole_gives_the_backends_own_error(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(bundle, "onnxruntime-cpu")
    Broken(monkeypatch, 0, 1)
    with pytest.raises(BackendError, match="ONNX Runtime failed .node failed") as failure:
        session.score(series(2))
    assert type(failure.value) is BackendError


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", DeviceLost),
        ("CUDA error 999: unknown error", DeviceLost),
        ("CUDA failure 719: unspecified launch failure", DeviceLost),
        ("CUDA failure 2: out of memory ; GPU=0", OutOfMemory),
        ("BFCArena::AllocateRawInternal Failed to allocate memory for requested", OutOfMemory),
        ("std::bad_alloc", OutOfMemory),
        ("CUDA failure 7: too many resources requested for launch", BackendError),
        ("Non-zero status code returned while running Mul node", BackendError),
    ],
    ids=["illegal", "unknown", "launch", "cuda-memory", "arena", "host-memory", "other", "node"],
)
def test_what_onnxruntime_says_becomes_a_type(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, message: str, kind: type[BackendError]
) -> None:
    session = Session(bundle, "onnxruntime-cpu", batch=1)
    Broken(monkeypatch, 0, message=message)
    with pytest.raises(BackendError) as failure:
        session.score(series(1))
    assert type(failure.value) is kind


def test_a_lost_device_ends_the_series(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(bundle, "onnxruntime-cpu", batch=1)
    broken = Broken(monkeypatch, 1, message="CUDA failure 700: illegal")
    with pytest.raises(PartialResult) as failure:
        session.score(series(5))
    assert (failure.value.done, failure.value.failed) == ([0], [1, 2, 3, 4])
    assert isinstance(failure.value.__cause__, DeviceLost) and broken.calls == 2


def test_little_memory_means_a_smaller_batch(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", batch=BatchRange(2, 8, 8))
    session = Session(path, "onnxruntime-cpu", batch=8)
    real = OnnxRuntimeBackend.run
    sizes: list[int] = []

    def small_memory(backend: OnnxRuntimeBackend, hu: Any) -> Any:
        sizes.append(len(hu))
        if len(hu) > limit:
            raise OutOfMemory("too much")
        return real(backend, hu)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxRuntimeBackend, "run", small_memory)
        limit = 3
        np.testing.assert_allclose(
            session.score(series(7)).score, reference(series(7))["score"], rtol=1e-5
        )
        assert sizes == [7, 3, 3, 2] and session.batch == 3  # the last one filled up to 2
        limit = 1
        with pytest.raises(OutOfMemory, match="too much"):
            session.score(series(2))
    assert len(session.score(series(2))) == 2


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="memory and handles are read from /proc")
def test_a_day_of_calls_takes_no_more_memory_handles_or_threads(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls through `Session`, with failures and streams, on a backend without work.

    One in 25 more runs the graph; `make soak` runs more of both.
    """
    session = Session(bundle, "onnxruntime-cpu")
    hu = series(1)
    outputs = {name: value.astype(np.float32) for name, value in reference(hu).items()}

    done = 0

    def run(backend: OnnxRuntimeBackend, hu: Any) -> Any:
        nonlocal done
        done += 1
        if done % 100 == 0:
            raise BackendError("now and then")
        return {name: value.copy() for name, value in outputs.items()}

    def spend(calls: int) -> tuple[int, int, int]:
        with monkeypatch.context() as patch:
            patch.setattr(OnnxRuntimeBackend, "run", run)
            until = done + calls
            while done < until:
                if done % 5000 == 4999:
                    with session.stream() as stream:
                        stream.put(hu[0])
                    list(stream)
                try:
                    session.score(hu)
                except BackendError:
                    pass
        for _ in range(calls // 25):
            session.score(hu)
        gc.collect()
        return resident_bytes(), len(os.listdir("/proc/self/fd")), threading.active_count()

    calls = 20_000 if WHOLE else 1_000
    before = spend(calls // 2)
    after = spend(calls)
    assert after[0] - before[0] < 4 * 2**20
    # Fewer are those of other tests in this process, which end meanwhile.
    assert after[1] <= before[1] and after[2] <= before[2]
