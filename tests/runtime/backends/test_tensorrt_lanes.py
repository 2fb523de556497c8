"""Memory, lanes and graphs of the TensorRT backend with an engine that launches one kernel.

On a GPU with pycuda they are CUDA's own and torch runs beside them; TensorRT is not needed. Without
a GPU the same tests run on the fake one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from support import driver_engine
from support.driver_engine import ENGINE, expected
from support.fake_machine import start

from clinreadnet.runtime.backends.flavours import FLAVOURS
from clinreadnet.runtime.backends.tensorrt import TensorRTBackend
from clinreadnet.runtime.bundle.files import digest
from clinreadnet.runtime.bundle.manifest import NOT_RUN, Artifact, BatchRange, BuiltOn, Parity
from clinreadnet.runtime.verdict import current_platform

WORKERS = 3


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def backend(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[TensorRTBackend]:
    if request.param == "fake":
        start(monkeypatch, "tensorrt-11", tmp_path)
    else:
        pytest.importorskip("pycuda", reason="pycuda is not installed")
    artifact = Artifact(
        file="x.engine",
        kind="tensorrt-engine",
        precision="fp32",
        sha256=digest(ENGINE),
        size=len(ENGINE),
        batch=BatchRange(*driver_engine.BATCH),
        toolchain={},
        built_on=BuiltOn(current_platform()),
        flavour="tensorrt",
        target=None,
        parity=Parity(NOT_RUN),
    )
    opened = TensorRTBackend(
        ENGINE,
        artifact=artifact,
        flavour=next(row for row in FLAVOURS if row.name == "tensorrt"),
        trt=driver_engine.module(),
        batch=driver_engine.BATCH[-1],
        workers=WORKERS,
    )
    yield opened
    opened.close()


def slices(n: int, seed: int) -> np.ndarray:
    hu = np.zeros((n, 1, 512, 512), np.float32)
    hu[:, 0, 0, 0] = np.random.default_rng(seed).normal(40, 300, n)
    return hu


def check(backend: TensorRTBackend, n: int, seed: int) -> None:
    hu = slices(n, seed)
    outputs = backend.run(hu)
    for name, value in expected(hu).items():
        np.testing.assert_array_equal(outputs[name], value, err_msg=f"{name} of {n}, {seed}")


def test_every_batch_size_is_captured_and_replayed(backend: TensorRTBackend) -> None:
    for seed, n in enumerate((8, 1, 3, 8, 3, 1)):
        check(backend, n, seed)
    assert backend.notes == ()  # each size runs from its CUDA graph


def test_lanes_do_not_share_buffers(backend: TensorRTBackend) -> None:
    with ThreadPoolExecutor(2 * WORKERS) as pool:
        runs: list[Any] = [pool.submit(check, backend, 1 + seed % 8, seed) for seed in range(24)]
        for run in runs:
            run.result()
    assert backend.notes == ()


def test_torch_computes_beside_the_lanes(backend: TensorRTBackend) -> None:
    """torch uses its default stream on another thread, while lanes capture and replay."""
    x = torch.arange(64.0, device="cuda" if torch.cuda.is_available() else "cpu").reshape(8, 8)
    right, stop = (x @ x).cpu(), threading.Event()

    def compute() -> int:
        wrong = 0
        while not stop.is_set():
            wrong += not torch.equal((x @ x).cpu(), right)
        return wrong

    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(compute)
        try:
            for seed, n in enumerate((8, 1, 2, 3, 4, 5, 2, 8)):
                check(backend, n, seed)
        finally:
            stop.set()
        assert beside.result() == 0
    assert backend.notes == ()
