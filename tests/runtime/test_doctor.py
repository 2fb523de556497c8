"""`clinreadnet doctor`: its findings and its commands."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from clinreadnet.runtime import doctor, gpu
from clinreadnet.runtime.gpu import Gpu

PACKAGES = (*doctor.DISTRIBUTIONS, doctor.ENGINE)
NOTHING: dict[str, str | None] = dict.fromkeys(PACKAGES)
EVERYTHING: dict[str, str | None] = dict.fromkeys(PACKAGES, "1.0")


def feature(name: str, packages: dict[str, str | None], *, has_gpu: bool = False) -> doctor.Feature:
    (match,) = [f for f in doctor.features(packages, has_gpu=has_gpu) if f.name == name]
    return match


def test_the_command_prints_json_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['clinreadnet', 'doctor', '--json']\n"
        "from clinreadnet import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tensorrt_rtx', 'numba', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    result = json.loads(done.stdout)
    assert result["packages"]["onnx"] == version("onnx")
    assert {"clinreadnet", "python", "platform", "driver", "gpus", "features"} <= set(result)


def test_the_table_shows_packages_features_and_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    def version_of(name: str) -> str:
        if name != "torch":
            raise PackageNotFoundError(name)
        return "9.8.7"

    monkeypatch.setattr(doctor.metadata, "version", version_of)
    monkeypatch.setattr(doctor, "find_gpus", lambda: [Gpu("NVIDIA L4", "sm89", 24 << 30)])
    monkeypatch.setattr(doctor, "driver_version", lambda: "580.65.06")
    doctor.print_diagnosis(doctor.diagnose(), Console(width=120))
    out = capsys.readouterr().out
    for text in ("9.8.7", "NVIDIA L4, sm89, 24 GiB", "580.65.06", 'pip install "clinreadnet[cpu]"'):
        assert text in out


@pytest.mark.parametrize("name", [f.name for f in doctor.features(NOTHING, has_gpu=False)])
def test_every_feature_fails_with_nothing_and_works_with_everything(name: str) -> None:
    without, with_all = feature(name, NOTHING), feature(name, EVERYTHING, has_gpu=True)
    assert not without.works and without.missing and "pip install" in without.command
    assert with_all.works and not with_all.missing and not with_all.command


@pytest.mark.parametrize(
    ("packages", "has_gpu", "name", "works"),
    [
        ({"onnxruntime"}, False, "score with ONNX Runtime", True),
        ({"onnxruntime-gpu"}, False, "score with ONNX Runtime", True),
        ({"onnxruntime-gpu"}, False, "score with CUDA", False),
        ({"onnxruntime-gpu"}, True, "score with CUDA", True),
        ({"onnxruntime"}, True, "score with CUDA", False),
        (set(NOTHING) - {"onnxruntime-gpu"}, False, "build TensorRT-RTX engines", True),
        (set(NOTHING) - {"tensorrt_rtx libraries"}, True, "build TensorRT-RTX engines", False),
        (set(NOTHING) - {"scikit-image"}, False, "simulate", False),
        (set(NOTHING) - {"pycuda"}, True, "score with TensorRT-RTX", False),
    ],
    ids=[
        "cpu",
        "gpu-package-runs-on-cpu",
        "gpu-package-without-gpu",
        "gpu-package-with-gpu",
        "gpu-without-package",
        "rtx-builds-without-gpu",
        "rtx-libraries-missing",
        "scikit-image-missing",
        "pycuda-missing",
    ],
)
def test_features(packages: set[str], has_gpu: bool, name: str, works: bool) -> None:
    installed = {p: "1.0" if p in packages else None for p in NOTHING}
    assert feature(name, installed, has_gpu=has_gpu).works is works


def test_no_command_puts_one_onnxruntime_beside_the_other() -> None:
    cpu = NOTHING | {"onnxruntime": "1.0"}
    gpu_build = NOTHING | {"onnxruntime-gpu": "1.0"}
    for row in doctor.features(cpu, has_gpu=True):
        if "[gpu" in row.command:
            assert row.command.startswith("pip uninstall -y onnxruntime && ")
    assert not any("cpu" in f.command for f in doctor.features(gpu_build, has_gpu=True))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"onnxruntime-gpu": None}, None),
        ({"onnxruntime": None}, None),
        ({}, "both installed and overwrite each other"),
        ({"onnxruntime": None, "onnxruntime-gpu": None}, None),
        (
            {"onnxruntime": None, "onnxruntime-gpu": None, doctor.ENGINE: None},
            "no CPU engine and no onnxruntime",
        ),
        ({"onnxruntime": None, "tensorrt_rtx bindings": None}, "only half of TensorRT-RTX"),
    ],
    ids=["cpu-only", "gpu-only", "both", "engine-only", "neither", "half-rtx"],
)
def test_problems(change: dict[str, str | None], problem: str | None) -> None:
    problems = doctor.find_problems(EVERYTHING | change)
    if problem is None:
        assert problems == []
    else:
        assert len(problems) == 1 and problem in problems[0]


def test_no_driver_means_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "DRIVER_LIBRARY", "libno-such-driver.so")
    monkeypatch.setattr(gpu, "NVML_LIBRARY", "libno-such-driver.so")
    assert gpu.find_gpus() == [] and gpu.driver_version() is None
