"""Kernels compiled ahead of time: kernels.json agrees with the files."""

import hashlib
import importlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("triton", reason="triton is not installed")

from triton import knobs

from clinreadnet.cli import app
from clinreadnet.errors import InputError
from clinreadnet.export import kernels as cubin
from clinreadnet.kernels.compile import SHARED_MEMORY, Resources
from clinreadnet.precision import PRECISIONS

pytestmark = pytest.mark.compile
PTX_TYPES = {"CUdeviceptr": "u64", "int32_t": "u32"}


def cuobjdump(option: str, file: Path) -> str:
    command = [knobs.nvidia.cuobjdump.path, option, file]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cubin") / "kernels"
    targets = ("--target", "sm90")
    formats = ("--format", "cubin", "--format", "ptx")
    precisions = ("--precision", "fp32", "--precision", "fp16")
    arguments = ["export-kernels", "--out", str(out), *formats, *precisions, *targets, "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{result.output} {result.exception!r}"
    assert json.loads(result.stdout) == json.loads((out / "kernels.json").read_text())
    return out


@pytest.fixture(scope="module")
def kernels(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "kernels.json").read_text())["kernels"]


@pytest.mark.whole
def test_every_kernel_of_the_network_is_there(folder: Path, kernels: list[dict[str, Any]]) -> None:
    both: tuple[str, ...] = ("sobel_stem", "sobel_stem_hu", "mlp_48", "mlp_96")
    both += tuple(f"window_attention_shift{shift}" for shift in (0, 4))
    both += ("region_statistics_log", "region_statistics_root")
    half = tuple(f"attention_block_{c}_shift{shift}" for c in (48, 96) for shift in (0, 4))
    parts = ("qkv", "projection", "fc1", "fc2")
    half += tuple(
        f"fused_linear_{part}_{c}_{size}"
        for c in (192, 384)
        for part in parts
        for size in ("small", "medium", "large")
    )
    by_width = {96: ("medium", "large"), **dict.fromkeys((192, 384), ("small", "medium", "large"))}
    half += tuple(f"fused_linear_merge_{c}_{size}" for c in by_width for size in by_width[c])
    half += tuple(f"fused_linear_head_384_{size}" for size in ("small", "medium", "large"))
    half += ("ordinal_head",)
    expected = {
        f"{name}.{precision}.sm90.{kind}"
        for precision, names in (("fp32", both), ("fp16", both + half))
        for name in names
        for kind in ("cubin", "ptx")
    }
    assert {kernel["file"] for kernel in kernels} == expected
    assert {path.name for path in folder.iterdir()} == expected | {"kernels.json"}
    for kernel in kernels:
        assert (
            hashlib.sha256((folder / kernel["file"]).read_bytes()).hexdigest() == (kernel["sha256"])
        )
    attention = {k["name"]: k for k in kernels if k["name"].startswith("window_attention")}
    uses = [use for kernel in attention.values() for use in kernel["uses"]]
    assert len(uses) == 12  # blocks of the preset `small`
    assert {(use["H"], use["heads"]) for use in uses} == {(128, 3), (64, 6), (32, 12), (16, 24)}
    fused = {k["name"]: k for k in kernels if k["name"].startswith("attention_block")}
    layers = [use["layer"] for kernel in fused.values() for use in kernel["uses"]]
    assert sorted(layers) == ["stages.0.0", "stages.0.1", "stages.1.1", "stages.1.2"]
    (linear,) = (k for k in kernels if k["file"] == "fused_linear_fc1_192_large.fp16.sm90.ptx")
    layers = [use["layer"] for use in linear["uses"]]
    assert layers == [f"stages.2.{number}" for number in range(1, 7)]
    (merge,) = (k for k in kernels if k["file"] == "fused_linear_merge_96_medium.fp16.sm90.cubin")
    assert merge["uses"] == [{"layer": "stages.1.0", "tokens": 64**2, "W": 128}]
    sizes = [k["tokens"] for k in kernels if k["file"].startswith("fused_linear_fc1_192")]
    assert sizes[::2] == sizes[1::2] == [[1, 1024], [1025, 8192], [8193, None]]


@pytest.mark.whole
def test_entries_are_symbols_of_the_machine_code(
    folder: Path, kernels: list[dict[str, Any]]
) -> None:
    for kernel in kernels:
        if kernel["kind"] == "cubin":
            symbols = cuobjdump("--dump-elf-symbols", folder / kernel["file"])
            assert re.search(rf"STO_ENTRY\s+{kernel['entry']}\n", symbols)
            listing = cuobjdump("-lelf", folder / kernel["file"])
            architecture = re.search(r"\.sm_(\d+)a?\.cubin", listing)
            assert architecture and f"sm{architecture[1]}" == kernel["target"]


@pytest.mark.whole
def test_arguments_are_the_parameters_of_the_ptx(
    folder: Path, kernels: list[dict[str, Any]]
) -> None:
    for kernel in kernels:
        if kernel["kind"] == "ptx":
            text = (folder / kernel["file"]).read_text()
            entry = re.search(rf"\.entry {kernel['entry']}\((.*?)\)\s*\.reqntid (\d+)", text, re.S)
            assert entry
            types = re.findall(r"\.param \.(\w+)", entry[1])
            assert types == [PTX_TYPES[a["c_type"]] for a in kernel["arguments"]]
            assert int(entry[2]) == kernel["block"][0] == 32 * kernel["num_warps"]


@pytest.mark.whole
def test_files_hold_no_path_of_the_machine_that_made_them(folder: Path) -> None:
    here = str(Path(cubin.__file__).parents[1]).encode()
    assert not any(here in path.read_bytes() for path in folder.iterdir())


@pytest.mark.whole
def test_nothing_spills_and_everything_fits(kernels: list[dict[str, Any]]) -> None:
    for kernel in kernels:
        limit = SHARED_MEMORY[int(kernel["target"].removeprefix("sm"))] * 1024
        assert 0 < kernel["registers"] <= 255
        assert 0 <= kernel["dynamic_shared_bytes"] <= limit


def stem_arguments(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    x, weight = torch.zeros(3, 1, 37, 70), torch.zeros(24, 4, 3, 3, dtype=dtype)
    return x, weight, torch.zeros(24, dtype=dtype)


def attention_arguments(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    qkv = torch.zeros(3, 16, 40, 3 * 16 * 6, dtype=dtype)
    return qkv, torch.zeros(6, 64, 64), torch.ones(6), torch.zeros(6, 3)


def attention_block_arguments(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    shapes = (3, 16, 40, 96), (96,), (96,), (288, 96), (288,), (96, 96), (96,)
    layers = [torch.zeros(shape, dtype=dtype) for shape in shapes]
    return *layers, torch.zeros(6, 64, 64), torch.ones(6), torch.zeros(6, 3)


def mlp_arguments(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    shapes = (3, 5, 7, 48), (48,), (48,), (192, 48), (192,), (48, 192), (48,)
    return tuple(torch.zeros(shape, dtype=dtype) for shape in shapes)


def fused_linear_arguments(dtype: torch.dtype) -> tuple[torch.Tensor | None, ...]:
    x, residual = torch.zeros(3, 5, 7, 768, dtype=dtype), torch.zeros(3, 5, 7, 192, dtype=dtype)
    layer = torch.zeros(192, 768, dtype=dtype), torch.zeros(192, dtype=dtype)
    return x, *layer, None, None, residual


def head_arguments(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    parameters = (torch.zeros(shape) for shape in ((21, 128), (21,), (), (21,)))
    return torch.zeros(3, 105, 160, dtype=dtype), *parameters


def statistics_arguments(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    return torch.zeros(3, 16, 40, 48, dtype=dtype), torch.zeros(96), torch.zeros(96)


def merge_arguments(dtype: torch.dtype) -> tuple[torch.Tensor | None, ...]:
    norm = torch.zeros(192, dtype=dtype), torch.zeros(192, dtype=dtype)
    weight = torch.zeros(96, 192, dtype=dtype)
    return torch.zeros(3, 10, 14, 48, dtype=dtype), weight, None, *norm, None


ARGUMENTS = {
    "sobel_stem": stem_arguments,
    "window_attention": attention_arguments,
    "attention_block": attention_block_arguments,
    "mlp": mlp_arguments,
    "ordinal_head": head_arguments,
    "region_statistics": statistics_arguments,
    "fused_linear_fc2_192_small": fused_linear_arguments,
    "fused_linear_merge_96_medium": merge_arguments,
}
TILES = {"region_h": 8, "region_w": 8, "log": True}
ENCODING = {"lowest": -1000.0, "span": 1400.0}
LINEAR = {"gelu": False, "eps": 1e-5}
ABSENT = {
    "sobel_stem": {"LOWEST", "SPAN"},
    "fused_linear_fc2_192_small": {"norm_weight_ptr", "norm_bias_ptr", "W"},
    "fused_linear_merge_96_medium": {"bias_ptr", "residual_ptr"},
}
WINDOWED = {"window": 8, "shift": 4}


@pytest.mark.parametrize(
    ("precision", "name", "op", "where"),
    [
        pytest.param(precision, name, op, where, id=f"{name}-{precision}")
        for name, op, where, precisions in (
            ("sobel_stem", "sobel_stem", {}, ("fp32", "fp16")),
            ("sobel_stem_hu", "sobel_stem", ENCODING, ("fp32",)),
            ("ordinal_head", "ordinal_head", {}, ("fp16",)),
            ("region_statistics_log", "region_statistics", TILES, ("fp32", "fp16")),
            ("window_attention_shift0", "window_attention", WINDOWED | {"shift": 0}, ("fp16",)),
            ("window_attention_shift4", "window_attention", WINDOWED, ("fp32", "fp16")),
            ("attention_block_96_shift4", "attention_block", WINDOWED | {"eps": 1e-5}, ("fp16",)),
            ("mlp_48", "mlp", {"eps": 1e-5}, ("fp32", "fp16")),
            ("fused_linear_fc2_192_small", "fused_linear", LINEAR, ("fp16",)),
            ("fused_linear_merge_96_medium", "fused_linear", LINEAR | {"merge": True}, ("fp16",)),
        )
        for precision in precisions
    ],
)
def test_a_launch_is_what_the_launcher_does(
    monkeypatch: pytest.MonkeyPatch,
    kernels: list[dict[str, Any]],
    name: str,
    op: str,
    where: dict[str, Any],
    precision: str,
) -> None:
    """The launcher runs with a kernel that only records its launch."""
    dtype = getattr(torch, PRECISIONS[precision].torch_dtype)
    module = importlib.import_module(f"clinreadnet.kernels.ops.{op}.kernel")
    launches: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    class Recorder:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *args, **constants: launches.append((grid, args, constants))

    monkeypatch.setattr(module, "wrap_triton", lambda kernel: Recorder())
    monkeypatch.setattr(module, "gpu_of", lambda device: ("", 90))
    if name == "fused_linear_merge_96_medium":  # for more tokens than the arguments have
        monkeypatch.setattr(module, "size_of", lambda tokens: "medium")
    args = (ARGUMENTS.get(name) or ARGUMENTS[op])(dtype)
    getattr(module, f"{op}_op")._init_fn(*args, **where)
    ((grid, passed, constants),) = launches
    passed = tuple(arg for arg in passed if arg is not None)

    (kernel,) = (
        k
        for k in kernels
        if (k["name"], k["precision"], k["file"][-10:]) == (name, precision, "sm90.cubin")
    )
    visible = [a for a in kernel["arguments"] if a["value"] is None]
    assert len(visible) == len(passed)
    sizes = {"B": 3}
    for argument, value in zip(visible, passed, strict=True):
        if isinstance(value, int):
            assert argument["c_type"] == "int32_t"
            sizes[argument["name"]] = value
        else:
            assert str(value.dtype) == f"torch.{argument['element']}"
    if op in ("mlp", "fused_linear", "ordinal_head"):
        assert sizes["N" if op == "ordinal_head" else "tokens"] == 3 * 5 * 7
    elif op == "region_statistics":
        assert sizes["W"] == 40
        sizes["H"] = 16  # of the grid alone
    else:
        assert (sizes["H"], sizes["W"]) == ((37, 70) if op == "sobel_stem" else (16, 40))

    def evaluate(formula: str) -> Any:
        return eval(formula.replace("/", "//"), {}, sizes)  # C's division of integers

    assert tuple(evaluate(axis) for axis in kernel["grid"]) == (*grid, 1, 1)
    for argument, value in zip(visible, passed, strict=True):
        if argument["shape"]:
            shape = evaluate(f"({argument['shape'].strip('[]')},)")
            assert torch.Size(shape).numel() == value.numel()
    assert kernel["num_warps"] == constants.pop("num_warps")
    absent = {name: None for name, value in kernel["constants"].items() if value is None}
    assert kernel["constants"] == constants | absent
    assert set(absent) == ABSENT.get(name, set())


def test_a_kernel_that_spills_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cubin, "resources_of", lambda kernel: Resources(255, 48, 1024))
    arguments = ("--format", "cubin", "--target", "sm90", "--precision", "fp16")
    result = CliRunner().invoke(app, ["export-kernels", "--out", str(tmp_path / "out"), *arguments])
    assert result.exception is not None
    assert "sobel_stem fp16 sm90: spills 48 bytes" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--target", "sm81"], "--target sm81: unknown; known: sm75, sm80", id="sm81"),
        pytest.param(["--target", "sm90", "--format", "sass"], "--format sass", id="format"),
        pytest.param(["--target", "sm90", "--precision", "int8"], "--precision int8", id="int8"),
        pytest.param(["--target", "sm90", "--preset", "huge"], "known: tiny, small", id="preset"),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    arguments = ["export-kernels", "--out", str(tmp_path / "out"), "--format", "cubin", *options]
    result = CliRunner().invoke(app, arguments)
    assert getattr(result.exception, "exit_code", None) == 2
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param([], "Missing option '--target'", id="no-target"),
        pytest.param(
            ["--target", "sm90", "--batch", "1:2:4"], "No such option: --batch", id="batch"
        ),
        pytest.param(
            ["--target", "sm90", "--checkpoint", "x"], "No such option: --checkpoint", id="weights"
        ),
        pytest.param(
            ["--target", "sm90", "--no-engines"], "No such option: --no-engines", id="engines"
        ),
    ],
)
def test_options_of_a_bundle_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    arguments = ["export-kernels", "--out", str(tmp_path / "out"), "--format", "cubin", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and message in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("empty", ["formats", "targets", "precisions"])
def test_an_empty_choice_is_refused_by_name(tmp_path: Path, empty: str) -> None:
    choice = {"formats": ["cubin"], "targets": ["sm90"], "precisions": ["fp16"]} | {empty: []}
    with pytest.raises(InputError, match=f"`{empty}` is empty; name at least one of"):
        cubin.export_kernels(tmp_path / "out", **choice)
