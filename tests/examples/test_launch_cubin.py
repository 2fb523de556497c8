"""The C++ host of docs/ahead-of-time.md, run against a CUDA driver that launches nothing."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cuda_stub import COMPILER, HEADERS, NEEDED, STUB

from clinreadnet.export.kernels import TARGETS, export_kernels
from clinreadnet.kernels import sobel_stem
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.comparison import relative_error

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples" / "launch_cubin.cpp"

pytestmark = NEEDED


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "launch_cubin"
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
    command = [COMPILER, "-std=c++17", *warnings, "-isystem", HEADERS, SOURCE]
    subprocess.run([*command, STUB, "-o", path], check=True)
    return path


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kernels") / "out"
    export_kernels(out, formats=["cubin"], targets=["sm80", "sm90"], precisions=["fp32"])
    return out


def run(
    program: Path, kernels: Path, folder: Path, name: str = "sobel_stem.fp32.sm80.cubin"
) -> subprocess.CompletedProcess[str]:
    for tensor, count in {"x": 2 * 37 * 70, "weight": 24 * 36, "bias": 24}.items():
        np.full(count, len(tensor), "<f4").tofile(folder / f"{tensor}.f32")
    files = [folder / f"{tensor}.f32" for tensor in ("x", "weight", "bias", "out")]
    command = [program, kernels, name, "2", "37", "70", *files]
    return subprocess.run(command, capture_output=True, text=True)


def test_it_launches_what_kernels_json_describes(
    program: Path, kernels: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(kernels, tmp_path / "kernels")
    index = json.loads((copy / "kernels.json").read_text())
    kernel, other = (k for k in index["kernels"] if k["name"] == "sobel_stem")
    assert (kernel["target"], other["target"]) == ("sm80", "sm90")
    other["dynamic_shared_bytes"] += 1024  # so that it must take its own
    (copy / "kernels.json").write_text(json.dumps(index, indent=2))
    result = run(program, copy, tmp_path)
    assert result.returncode == 0, result.stderr
    grid = eval(kernel["grid"][0].replace("/", "//"), {}, {"B": 2, "H": 37, "W": 70})
    assert grid > 2
    assert result.stdout.splitlines() == [
        f"entry {kernel['entry']}",
        f"grid {grid} 1 1",
        f"block {kernel['block'][0]} 1 1",
        f"shared {kernel['dynamic_shared_bytes']}",
        f"tensor 0: {2 * 37 * 70 * 4} bytes, first 1",
        f"tensor 1: {24 * 36 * 4} bytes, first 6",
        f"tensor 2: {24 * 4} bytes, first 4",
        "sizes 37 70",
        "hidden 0 0",
        "leaked 0",
    ]
    names = [argument["name"] for argument in kernel["arguments"]]
    assert names == ["x", "weight", "bias", "H", "W", "out", "global_scratch", "profile_scratch"]
    out = np.fromfile(tmp_path / "out.f32", "<f4")
    np.testing.assert_array_equal(out, np.arange(1, 2 * 19 * 35 * 24 + 1))


def test_much_shared_memory_is_asked_for(program: Path, kernels: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(kernels, tmp_path / "kernels")
    index = json.loads((copy / "kernels.json").read_text())
    index["kernels"][0]["dynamic_shared_bytes"] = 65536
    (copy / "kernels.json").write_text(json.dumps(index, indent=2))
    assert "opted in to 65536" in run(program, copy, tmp_path).stdout.splitlines()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("other.cubin", "kernels.json: no file other.cubin", id="no-such-file"),
        pytest.param(
            "window_attention_shift0.fp32.sm80.cubin", "launches sobel_stem", id="other-op"
        ),
    ],
)
def test_refusals_are_one_line(
    program: Path, kernels: Path, tmp_path: Path, name: str, message: str
) -> None:
    result = run(program, kernels, tmp_path, name)
    assert result.returncode == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out.f32").exists()


def test_a_file_that_is_no_machine_code_is_refused(
    program: Path, kernels: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(kernels, tmp_path / "kernels")
    (copy / "sobel_stem.fp32.sm80.cubin").write_bytes(b"not a cubin")
    result = run(program, copy, tmp_path)
    assert result.stderr == "launch_cubin: cuModuleLoadData: refused by the stub\n"


@pytest.mark.gpu
def test_it_computes_the_stem_on_this_gpu(tmp_path: Path) -> None:
    target = "sm{}{}".format(*torch.cuda.get_device_capability())
    if target not in TARGETS:
        pytest.skip(f"kernels are not compiled for {target}")
    kernels, program = tmp_path / "kernels", tmp_path / "launch_cubin"
    export_kernels(kernels, formats=["cubin"], targets=[target], precisions=["fp32"])
    libcuda = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout
    path, *_ = re.findall(r"libcuda\.so\.1 .*=> (\S+)", libcuda) or ["libcuda.so.1"]
    subprocess.run(
        [COMPILER, "-std=c++17", "-isystem", HEADERS, SOURCE, path, "-o", program], check=True
    )
    x, weight, bias = torch.rand(2, 1, 37, 70), torch.randn(24, 4, 3, 3) / 4, torch.randn(24)
    tensors = {"x": x, "weight": weight, "bias": bias}
    for name, tensor in tensors.items():
        tensor.numpy().tofile(tmp_path / f"{name}.f32")
    files = [tmp_path / f"{name}.f32" for name in (*tensors, "out")]
    command = [program, kernels, f"sobel_stem.fp32.{target}.cubin", "2", "37", "70", *files]
    subprocess.run(command, check=True)
    out = torch.from_numpy(np.fromfile(files[-1], "<f4")).reshape(2, 19, 35, 24)
    expected = sobel_stem(x.double(), weight.double(), bias.double(), impl="reference")
    assert relative_error(out.permute(0, 3, 1, 2), expected) <= PRECISIONS["fp32"].budget
