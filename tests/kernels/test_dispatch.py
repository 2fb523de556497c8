"""The choice of implementation and launch configuration."""

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import clinreadnet.kernels
from clinreadnet.kernels import dispatch, sobel_stem
from clinreadnet.kernels.launch import CONFIGS, config_file, launch_config, trial
from clinreadnet.kernels.registry import OPS


def test_running_the_network_on_a_cpu_imports_no_triton() -> None:
    code = """
import sys, torch
before = set(sys.modules)
from clinreadnet.model.network import PRESETS, ClinReadNet
with torch.inference_mode():
    ClinReadNet(PRESETS["tiny"])(torch.zeros(1, 1, 256, 256))
sys.exit(any(name.split(".")[0] == "triton" for name in set(sys.modules) - before))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_functions_stay_functions_once_their_modules_are_imported() -> None:
    for op in OPS:
        module = importlib.import_module(f"clinreadnet.kernels.ops.{op}.op")
        assert getattr(clinreadnet.kernels, op) is getattr(module, op)
        assert callable(getattr(clinreadnet.kernels, op))


def stub_reference(monkeypatch: pytest.MonkeyPatch) -> object:
    """Return the value that ``sobel_stem`` returns if it chooses the reference."""
    stub = object()
    module = importlib.import_module("clinreadnet.kernels.ops.sobel_stem.op")
    monkeypatch.setattr(module, "sobel_stem_reference", lambda *args, **encoding: stub)
    return stub


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(
    ("impl", "contiguous", "dtype", "kernel"),
    [
        pytest.param("auto", True, torch.float32, True, id="auto"),
        pytest.param("auto", False, torch.float32, False, id="auto-outside-the-limits"),
        pytest.param("auto", True, torch.float64, False, id="auto-float64"),
        pytest.param("reference", True, torch.float32, False, id="reference"),
        pytest.param("triton", True, torch.float32, True, id="triton"),
    ],
)
def test_choice_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, impl: str, contiguous: bool, dtype: torch.dtype, kernel: bool
) -> None:
    """Fake tensors are on a GPU that need not be there."""
    chose_reference = stub_reference(monkeypatch)
    with FakeTensorMode():
        x = torch.empty(2, 1, 8, 12, device="cuda", dtype=dtype)
        weight = torch.empty(16, 4, 3, 3, device="cuda", dtype=dtype)
        bias = torch.empty(16, device="cuda", dtype=dtype)
        out = sobel_stem(x if contiguous else x.mT, weight, bias, impl=impl)
    assert (out is chose_reference) != kernel


def test_triton_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinreadnet.kernels.dispatch.TRITON_INSTALLED", False)
    with FakeTensorMode():
        args = [torch.empty(s, device="cuda") for s in ((1, 1, 8, 8), (16, 4, 3, 3), (16,))]
        with pytest.raises(ValueError, match="pip install triton"):
            sobel_stem(*args, impl="triton")
        chose_reference = stub_reference(monkeypatch)
        assert sobel_stem(*args) is chose_reference


def write(folder: Path, name: str, capability: int | None) -> None:
    (folder / name).write_text(json.dumps({"compute_capability": capability}))


@pytest.mark.parametrize(
    ("gpu", "capability", "name"),
    [
        pytest.param("NVIDIA L4", 89, "nvidia-l4.json", id="by-name"),
        pytest.param("NVIDIA RTX 4090", 89, "nvidia-l4.json", id="same-capability"),
        pytest.param("NVIDIA A10", 86, "nvidia-l4.json", id="nearest"),
        pytest.param("NVIDIA A30", 80, "nvidia-a100.json", id="nearest-below"),
        pytest.param("NVIDIA H100", 90, "default.json", id="no-file-of-the-generation"),
        pytest.param("", 0, "default.json", id="no-gpu"),
    ],
)
def test_configuration_file(tmp_path: Path, gpu: str, capability: int, name: str) -> None:
    write(tmp_path, "default.json", None)
    write(tmp_path, "nvidia-l4.json", 89)
    write(tmp_path, "nvidia-a100.json", 80)
    assert config_file(gpu, capability, tmp_path).name == name


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_shipped_configurations_are_whole(path: Path) -> None:
    config = json.loads(path.read_text())
    assert {dtype: set(sizes) for dtype, sizes in config["sobel_stem"].items()} == {
        dtype: {"16", "32", "64"} for dtype in ("float32", "float16", "bfloat16")
    }
    padded = {"16", "32", "64"} | (set() if path.stem == "sm-75" else {"128", "256"})
    assert {dtype: set(sizes) for dtype, sizes in config["window_attention"].items()} == {
        dtype: padded for dtype in ("float32", "float16", "bfloat16")
    }
    # The fused kernels are refused before compute capability 8.0.
    fused = set() if path.stem == "sm-75" else {"attention_block", "mlp", "fused_linear"}
    assert {op: set(config.get(op, {})) for op in fused} == {
        op: {"float16", "bfloat16"} | ({"float32"} if op == "mlp" else set()) for op in fused
    }
    kinds = dict.fromkeys(fused, {"48", "96"}) | {"fused_linear": {"norm", "plain"}}
    assert all(set(sizes) == kinds[op] for op in fused for sizes in config[op].values())
    assert all(
        set(entry) == {"small", "medium", "large"}
        for kinds in config.get("fused_linear", {}).values()
        for entry in kinds.values()
    )
    spreads = {"float32": {"log", "root"}, "float16": {"log"}, "bfloat16": {"log"}}
    assert {d: set(kinds) for d, kinds in config["region_statistics"].items()} == spreads
    if path.stem != "sm-75":
        fused.add("ordinal_head")
        assert {dtype: set(sizes) for dtype, sizes in config["ordinal_head"].items()} == {
            dtype: {"128"} for dtype in ("float16", "bfloat16")
        }
    everywhere = {"sobel_stem", "window_attention", "region_statistics"}
    # A file that `clinreadnet tune` wrote says when and with what.
    facts = {"gpu", "compute_capability"} | ({"triton", "date"} if config["gpu"] else set())
    assert set(config) == {*facts, *everywhere, *fused}


def test_float32_products_follow_torch() -> None:
    keys = ("window_attention", "float32", "64")
    assert launch_config("", 0, *keys)["precision"] == "tf32x3"
    torch.set_float32_matmul_precision("high")
    try:
        assert launch_config("", 0, *keys)["precision"] == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("version", "capability", "stages"),
    [
        pytest.param("3.6.0", 90, 1, id="wgmma"),
        pytest.param("3.7.0+git1234abc", 103, 1, id="tcgen05"),
        pytest.param("3.6.0", 89, 3, id="no-asynchronous-product"),
        pytest.param("3.6.0", 120, 3, id="nor-after-it"),
        pytest.param("3.7.1", 90, 3, id="fenced"),
        pytest.param("3.10.0", 90, 3, id="fenced-later"),
    ],
)
def test_no_pipeline_without_its_fence(
    monkeypatch: pytest.MonkeyPatch, version: str, capability: int, stages: int
) -> None:
    triton = pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.setattr(triton, "__version__", version)
    entry = {"block_m": 64, "stages": 3}
    keys = ("fused_linear", "float16", "plain", "small")
    with trial(entry, *keys):
        assert launch_config("", capability, *keys) == entry | {"stages": stages}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("op", list(OPS))
def test_a_kernel_is_launched_on_the_device_of_its_tensors(
    monkeypatch: pytest.MonkeyPatch, op: str
) -> None:
    """Triton launches on the current device, which need not be theirs."""
    current = torch.device("cuda:0")
    launched: list[torch.device] = []

    class OnDevice:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __enter__(self) -> None:
            nonlocal current
            self.before, current = current, self.device

        def __exit__(self, *error: object) -> None:
            nonlocal current
            current = self.before

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> object:
            return lambda *args, **constants: launched.append(current)

    module = importlib.import_module(f"clinreadnet.kernels.ops.{op}.kernel")
    monkeypatch.setattr(torch.cuda, "device", OnDevice)
    monkeypatch.setattr(module, "wrap_triton", lambda kernel: Kernel())
    spec = OPS[op]
    (shape, *_) = spec.compiled
    made = spec.arguments(shape, 1, "float16", torch.device("cpu"))
    schema = getattr(torch.ops.clinreadnet, op).default._schema
    parameters = [argument.name for argument in schema.arguments]
    options = spec.options(shape) | ({"eps": 1e-5} if "eps" in parameters else {})
    with FakeTensorMode():
        tensors = [torch.empty(t.shape, dtype=t.dtype, device="cuda:1") for t in made]
        positional, named = spec.named(tensors, shape)
        absent = [name for name in parameters if name not in (*named, *options)]
        rest = dict.fromkeys(absent[len(positional) :])
        getattr(module, f"{op}_op")._init_fn(*positional, **named, **rest, **options)
    assert launched == [torch.device("cuda:1")]
    assert current == torch.device("cuda:0")


@pytest.mark.parametrize("interpreted", [True, False], ids=["interpreted", "compiled"])
def test_the_interpreter_gets_the_kernel_itself(
    monkeypatch: pytest.MonkeyPatch, interpreted: bool
) -> None:
    kernel, wrapped = object(), object()
    monkeypatch.setattr(dispatch, "INTERPRETED", interpreted)
    monkeypatch.setattr(torch.library, "wrap_triton", lambda given: wrapped)
    assert dispatch.wrap_triton(kernel) is (kernel if interpreted else wrapped)
