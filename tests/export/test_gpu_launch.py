"""The calls of `GpuLauncher` to a C library have CUDA's own types."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from support.cuda_stub import COMPILER, HEADERS, NEEDED, STUB

from clinreadnet.export.gpu_launch import DriverError, GpuLauncher
from clinreadnet.export.kernels import compile_source, sources
from clinreadnet.kernels.ptx.cases import cases
from clinreadnet.kernels.ptx.launch import Kernel

pytestmark = NEEDED


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("driver") / "libcuda.so"
    command = [COMPILER, "-std=c++17", "-shared", "-fPIC", "-isystem", HEADERS, STUB, "-o", path]
    subprocess.run([str(part) for part in command], check=True)
    return path


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    ((spec, source),) = ((a, b) for a, b in sources("tiny") if b.name == "sobel_stem")
    compiled = compile_source(spec, source, "fp32", "sm80")
    assert compiled is not None
    entry, code = compiled.written_as("cubin")
    return Kernel({**asdict(entry), "dynamic_shared_bytes": 50_000}, code)


@pytest.fixture
def launcher(library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GpuLauncher]:
    driver = ctypes.CDLL(str(library))
    for module in ("clinreadnet.runtime.gpu", "clinreadnet.export.gpu_launch"):
        monkeypatch.setattr(f"{module}.load_driver", lambda: driver)
    with GpuLauncher() as opened:
        yield opened


def test_a_launch_is_what_the_index_says(
    launcher: GpuLauncher, kernel: Kernel, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launcher.capability == 80 and launcher.takes(kernel)
    case = cases(kernel)[1]
    (out,) = launcher.launch(kernel, case.tensors, case.sizes, 1)
    assert np.array_equal(out.flatten().numpy(), np.arange(1, out.numel() + 1, dtype=np.float32))
    assert out.shape == case.expected.shape
    ctypes.CDLL(None).fflush(None)
    lines = capfd.readouterr().out.splitlines()
    x, weight, bias = (case.tensors[name] for name in ("x", "weight", "bias"))
    batch, h, w = (case.sizes[name] for name in "BHW")
    tile = kernel.entry["constants"]
    rows, columns = (-(-side // 2) for side in (h, w))
    grid = batch * -(-rows // tile["BLOCK_H"]) * -(-columns // tile["BLOCK_W"])
    assert lines == [
        f"entry {kernel.entry['entry']}",
        "opted in to 50000",
        f"grid {grid} 1 1",
        f"block {kernel.entry['block'][0]} 1 1",
        "shared 50000",
        *(
            f"tensor {place}: {tensor.nbytes} bytes, first {tensor.flatten()[0].item():.6g}"
            for place, tensor in enumerate((x, weight, bias))
        ),
        f"sizes {h} {w}",
        "hidden 0 0",
    ]


def test_what_is_not_machine_code_is_refused(launcher: GpuLauncher, kernel: Kernel) -> None:
    case = cases(kernel)[0]
    with pytest.raises(DriverError, match="cuModuleLoadData: REFUSED_BY_THE_STUB"):
        launcher.launch(Kernel(kernel.entry, b"text"), case.tensors, case.sizes, 1)
