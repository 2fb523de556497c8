"""The rules of CUDA and TensorRT that the fakes enforce, each broken by a naive backend."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import fake_pycuda, fake_tensorrt
from support.bodies import some_hu
from support.fake_machine import Machine, start
from support.fake_pycuda import LogicError
from support.fake_tensorrt import Engine

from clinreadnet.errors import BackendError, BackendUnavailable, DeviceLost, InputError
from clinreadnet.runtime import Session
from clinreadnet.runtime.backends import cuda_graph
from clinreadnet.runtime.backends.tensorrt import Lane
from clinreadnet.runtime.gpu import pop_context


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return start(monkeypatch, "tensorrt-11", tmp_path)


@contextlib.contextmanager
def primary_context(device: int = 0) -> Iterator[None]:
    """Make the primary context of a GPU current inside the block."""
    context = driver().Device(device).retain_primary_context()
    context.push()
    try:
        yield
    finally:
        context.detach()
        pop_context()


def driver() -> Any:
    """Return the fake of pycuda's driver."""
    return sys.modules["pycuda.driver"]


@pytest.mark.parametrize(
    ("n", "reason"),
    [
        pytest.param(1, "cuGraphLaunch failed with CUDA error 201", id="prepared"),
        pytest.param(2, "invalid device context", id="new"),
    ],
)
def test_a_context_must_be_current_on_the_thread(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, n: int, reason: str
) -> None:
    with machine.session() as session:
        with monkeypatch.context() as patch:  # naive: it makes no context current
            patch.setattr(fake_pycuda.Context, "push", lambda context: None)
            patch.setattr(driver().Context, "pop", lambda: None)
            with pytest.raises(DeviceLost) as failure:
                session.score(some_hu(n))
    assert reason in str(failure.value.__cause__)


@pytest.mark.parametrize("name", ["hu", "novelty"])
def test_addresses_must_be_set_before_work_is_enqueued(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = fake_tensorrt.ExecutionContext.set_tensor_address

    def naive(context: Any, tensor: str, memory: int) -> bool:
        return tensor == name or real(context, tensor, memory)

    monkeypatch.setattr(fake_tensorrt.ExecutionContext, "set_tensor_address", naive)
    with pytest.raises(BackendError, match=f"fails .Address is not set for tensor .*{name}"):
        machine.session()


def test_memory_must_be_freed_in_its_context(machine: Machine) -> None:
    machine.gpu.devices = 2
    with machine.backend() as backend:
        (lane,) = backend.lanes
        with pytest.raises(LogicError, match="invalid device context"):
            lane.device["hu"].free()  # naive: no context is current
        with primary_context(1):
            with pytest.raises(LogicError, match="the memory belongs to another"):
                lane.device["hu"].free()  # naive: another GPU's is
            with pytest.raises(LogicError, match="the stream belongs to another"):
                lane.stream.put(lambda: None)


def test_memory_must_not_serve_two_streams_at_a_time(machine: Machine) -> None:
    with machine.backend(workers=2) as backend, primary_context():
        ours, theirs = backend.lanes
        ours.runs[4].launch()
        # Naive: the other lane's stream runs our execution context, buffers and scratch.
        naive = ours.runs[4].context
        with pytest.raises(LogicError, match="in use on another stream"):
            naive.execute_async_v3(theirs.stream.handle)
        ours.stream.synchronize()
        naive.execute_async_v3(theirs.stream.handle)
        theirs.stream.synchronize()


def test_lanes_must_not_share_activation_memory(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[Any] = []

    def naive(lane: Lane, size: int) -> Any:
        shared.append(shared[0] if shared else driver().mem_alloc(2**20))
        return shared[0]

    monkeypatch.setattr(Lane, "scratch", naive)
    with machine.backend(workers=2) as backend, primary_context():
        ours, theirs = backend.lanes
        ours.runs[4].launch()
        with pytest.raises(LogicError, match="in use on another stream"):
            theirs.runs[4].launch()
        for lane in (ours, theirs):
            lane.stream.synchronize()
        shared[0].free()


def test_one_context_for_each_profile_before_tensorrt_10(machine: Machine) -> None:
    """The backend has one context for each batch size: releases before 10 are not supported."""
    machine.fake.shares_profiles = False
    with machine.session(Engine(batch=(1, 1, 1))) as session:
        assert len(session.score(some_hu(1))) == 1
    with pytest.raises(BackendError, match="profile 0 has been chosen for another context"):
        machine.session()
    machine.fake.version = "9.3.0"
    machine.fake.module("tensorrt")
    with pytest.raises(BackendUnavailable, match="tensorrt 9.3.0 is installed, 10.x or 11.x is"):
        load(machine)


def load(machine: Machine) -> None:
    sys.modules["tensorrt"].__version__ = machine.fake.version  # type: ignore[attr-defined]
    Session(machine.bundle(), "tensorrt")


def test_captures_must_be_serialised(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "CAPTURE_LOCK", contextlib.nullcontext())
    with machine.backend(workers=2) as backend:
        other = backend.lanes[1]
        other.stream.captured = []  # naive: it captures beside ours
        backend.run(some_hu(2)[:, None])
        other.stream.captured = None
        (note,) = backend.notes
        assert "batch 2 runs without a CUDA graph" in note and "900" in note


@pytest.mark.parametrize("kind", ["tensorrt-11", "tensorrt-rtx"])
def test_the_second_gpu_is_used_where_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    machine = start(monkeypatch, kind, tmp_path)
    with pytest.raises(InputError, match="device=7: one NVIDIA GPU is visible; it is 0"):
        machine.session(device=7)
    machine.gpu.devices = 2
    with machine.session(device=1, workers=2) as session:
        assert len(session.score(some_hu(9))) == 9
        assert set(machine.gpu.owners.values()) == {1}
    assert set(machine.gpu.live().values()) == {0}
    with machine.session() as session:
        assert set(machine.gpu.owners.values()) == {0}
    assert machine.gpu.stack == []
