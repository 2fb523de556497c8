"""TensorRT-RTX engines, built without a GPU."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from onnx import helper, numpy_helper
from support.export_models import RTX_MISSING

from clinreadnet.console import progress_bar
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.export.engines import options as builds
from clinreadnet.export.engines.build import EngineBuilder
from clinreadnet.export.engines.layers import (
    check_built,
    check_types,
    fused_attentions,
    layers_path,
    listed_layers,
)
from clinreadnet.export.engines.options import (
    DEFAULT_BATCH,
    BuildOptions,
    check_batch,
    check_options,
    resolve_targets,
)
from clinreadnet.export.onnx.export import BATCH, simplify, to_onnx
from clinreadnet.kernels import window_attention
from clinreadnet.kernels.ops.window_attention.reference import stacked_octaves
from clinreadnet.runtime.backends import flavours
from clinreadnet.runtime.backends.flavours import Flavour, FlavourMissing, load_flavour, newest
from clinreadnet.runtime.bundle.manifest import BatchRange
from clinreadnet.runtime.gpu import Gpu

Graph = Callable[[str, str], Path]
RTX, FULL = newest("tensorrt-rtx"), newest("tensorrt")

needs_rtx = pytest.mark.skipif(RTX_MISSING is not None, reason=str(RTX_MISSING))

MOST_LAYERS = {"tiny": 690, "small": 1561}
"""In float16. A Swin of the size of `small` written with slices and rolls makes over 3,200."""


@needs_rtx
@pytest.mark.parametrize("preset", ["tiny", pytest.param("small", marks=pytest.mark.whole)])
def test_layer_count_does_not_grow(graph: Graph, preset: str) -> None:
    builder = EngineBuilder(graph(preset, "fp16"), precision="fp16", flavour="tensorrt-rtx")
    total = sum(sum(types.values()) for types in builder.layers.values())
    assert total <= MOST_LAYERS[preset], builder.layers


@needs_rtx
def test_half_engine_is_half(tiny_bundle: Path) -> None:
    engine = tiny_bundle / "clinreadnet.fp16.sm89.rtx.engine"
    proof = json.loads(layers_path(engine).read_text(encoding="utf-8"))
    assert proof["engine"] == engine.name
    assert (proof["precision"], proof["target"], proof["batch"]) == ("fp16", "sm89", [1, 4, 16])
    layers = proof["layers"]
    assert layers["MATRIX_MULTIPLY"] == {"FLOAT": 5, "HALF": 35}
    assert layers["CONVOLUTION"] == {"FLOAT": 1, "HALF": 2}
    assert layers["NORMALIZATION"] == {"FLOAT": 15}
    assert layers["SOFTMAX"] == {"FLOAT": 8}  # five blocks, three of the head
    assert proof["total"] == sum(sum(types.values()) for types in layers.values())


@needs_rtx
def test_a_float32_graph_does_not_pass_for_half(graph: Graph) -> None:
    with pytest.raises(CheckFailed, match="the network is not fp16"):
        EngineBuilder(graph("tiny", "fp32"), precision="fp16", flavour="tensorrt-rtx")


@needs_rtx
def test_configuration(graph: Graph) -> None:
    _, trt = load_flavour("tensorrt-rtx")
    builder = EngineBuilder(graph("tiny", "fp32"), precision="fp32", flavour="tensorrt-rtx")
    assert builder.network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    for target in RTX.targets:
        config = builder.configure(target, DEFAULT_BATCH, BuildOptions())
        assert not config.get_flag(trt.BuilderFlag.TF32)
        assert config.num_compute_capabilities == 1
        assert config.get_compute_capability(0).name == target.upper()
        assert config.num_optimization_profiles == 1


@needs_rtx
def test_engine_is_plain_and_of_its_target(graph: Graph) -> None:
    builder = EngineBuilder(graph("tiny", "fp16"), precision="fp16", flavour="tensorrt-rtx")
    with progress_bar() as bar:
        engine = builder.build("sm86", BatchRange(1, 1, 2), bar)
    assert engine[:4] == b"vtrt", "TensorRT's own header comes first"
    parameters = 1_400_000
    assert len(engine) > 2 * parameters


@needs_rtx
@pytest.mark.parametrize(
    ("target", "batch", "message"),
    [
        pytest.param("sm89", BatchRange(4, 2, 8), "needs 1 <= MIN <= OPT <= MAX", id="min>opt"),
        pytest.param("sm89", BatchRange(0, 2, 8), "needs 1 <= MIN <= OPT <= MAX", id="min=0"),
        pytest.param("sm89", BatchRange(1, 9, 8), "needs 1 <= MIN <= OPT <= MAX", id="opt>max"),
        pytest.param("sm90", DEFAULT_BATCH, "targets=sm90: unknown; .*sm75, sm80", id="hopper"),
    ],
)
def test_refuses(graph: Graph, target: str, batch: BatchRange, message: str) -> None:
    builder = EngineBuilder(graph("tiny", "fp32"), precision="fp32", flavour="tensorrt-rtx")
    with pytest.raises(InputError, match=message):
        builder.build(target, batch)


@needs_rtx
def test_parser_error_is_one_line(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    node = helper.make_node("StringNormalizer", ["x"], ["y"], name="odd_one")
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", onnx.TensorProto.STRING, [1])],
        [value("y", onnx.TensorProto.STRING, [1])],
    )
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph), path)
    with pytest.raises(InputError) as caught:
        EngineBuilder(path, precision="fp32", flavour="tensorrt-rtx")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = dataclasses.replace(RTX, modules=("no_such_tensorrt",))
    monkeypatch.setattr(flavours, "FLAVOURS", (missing,))
    with pytest.raises(FlavourMissing, match=r'not installed; run pip install "clinreadnet\['):
        load_flavour("tensorrt-rtx")


@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106", "9.3.0", "12.0"])
def test_the_version_decides_the_flavour(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    module = types.ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    if version.startswith("1") and version != "12.0":
        flavour, loaded = load_flavour("tensorrt")
        assert (flavour.title, loaded) == (f"tensorrt {version[:2]}.x", module)
    else:
        with pytest.raises(FlavourMissing, match=f"{version} is installed, 10.x or 11.x is needed"):
            load_flavour("tensorrt")


def test_unknown_flavour() -> None:
    with pytest.raises(InputError, match="unknown flavour 'trt'; known: tensorrt, tensorrt-rtx"):
        newest("trt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"version_compatible": True}, "`version_compatible`", id="version"),
        pytest.param({"hardware_compatible": True}, "`hardware_compatible`", id="hardware"),
        pytest.param({"timing_cache": Path("cache")}, "`timing_cache`", id="timing"),
        pytest.param({"strip_weights": True}, "`strip_weights`: .* needs a GPU", id="strip"),
        pytest.param({"optimization_level": 6}, "optimization_level=6: give 0 to 5", id="level"),
        pytest.param({"platform": "windows"}, "`platform`: tensorrt-rtx does not", id="platform"),
        pytest.param({"workspace_mib": 0}, "workspace_mib=0: give 1 MiB or more", id="workspace"),
    ],
)
def test_options_that_rtx_lacks_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(builds, "find_gpus", list)
    with pytest.raises(InputError, match=message):
        check_options(BuildOptions(**options), RTX)


def test_options_that_are_offered_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "find_gpus", list)
    check_options(BuildOptions(optimization_level=0, workspace_mib=1), RTX)
    check_options(BuildOptions(True, True, True, Path("cache"), 5, 4096, "windows"), FULL)
    with pytest.raises(InputError, match="platform=beos: give windows"):
        check_options(BuildOptions(platform="beos"), FULL)


@pytest.mark.parametrize(
    ("flavour", "gpus", "targets", "resolved"),
    [
        pytest.param(RTX, [], ["sm89", "sm86", "sm89"], ("sm89", "sm86"), id="rtx-ahead-of-time"),
        pytest.param(RTX, ["sm120"], ["current", "sm89"], ("sm120", "sm89"), id="rtx-current"),
        pytest.param(RTX, [], ["current"], "this machine shows none", id="rtx-no-gpu"),
        pytest.param(RTX, ["sm90"], ["current"], "targets=sm90: unknown", id="rtx-hopper"),
        pytest.param(FULL, ["sm90"], ["current"], ("sm90",), id="full"),
        pytest.param(FULL, ["sm90"], ["sm90"], ("sm90",), id="full-by-name"),
        pytest.param(FULL, ["sm90"], ["sm89"], r"GPU alone \(sm90\)", id="full-other"),
        pytest.param(FULL, [], ["current"], "this machine shows none", id="full-no-gpu"),
        pytest.param(FULL, [], ["sm89"], "this machine shows none", id="full-named-no-gpu"),
    ],
)
def test_targets(
    monkeypatch: pytest.MonkeyPatch,
    flavour: Flavour,
    gpus: list[str],
    targets: list[str],
    resolved: tuple[str, ...] | str,
) -> None:
    monkeypatch.setattr(builds, "find_gpus", lambda: [Gpu("x", gpu, 1) for gpu in gpus])
    if isinstance(resolved, str):
        with pytest.raises(InputError, match=resolved):
            resolve_targets(targets, flavour)
    else:
        assert resolve_targets(targets, flavour) == resolved


def test_batch_beyond_the_graphs() -> None:
    check_batch(BatchRange(1, 1, 1024))
    with pytest.raises(InputError, match="the graph accepts at most 1024"):
        check_batch(BatchRange(1, 1, 1025))


def save_product(path: Path, dtype: int, batch: int | str) -> Path:
    """Write a graph of one matrix product and one convolution over `hu`."""
    value = helper.make_tensor_value_info
    ones = np.ones((512, 512), helper.tensor_dtype_to_np_dtype(dtype))
    nodes = [
        helper.make_node("Cast", ["hu"], ["x"], to=dtype),
        helper.make_node("Conv", ["x", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("MatMul", ["c", "ones"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(ones, "ones"),
        numpy_helper.from_array(ones[None, None, :3, :3].copy(), "kernel"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("hu", onnx.TensorProto.FLOAT, [batch, 1, 512, 512])],
        [value("y", dtype, [batch, 1, 512, 512])],
        constants,
    )
    opset = [helper.make_opsetid("", 22)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@needs_rtx
def test_a_profile_outside_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    path = save_product(tmp_path / "fixed.onnx", onnx.TensorProto.FLOAT, 2)
    builder = EngineBuilder(path, precision="tf32", flavour="tensorrt-rtx")
    with pytest.raises(InputError, match=r"1:4:16: .* has a fixed batch of 2; give 2:2:2"):
        builder.build("sm89", DEFAULT_BATCH)
    assert builder.build("sm89", BatchRange(2, 2, 2))[:4] == b"vtrt"


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_tf32_is_a_flag_of_the_float32_graph(tmp_path: Path, precision: str) -> None:
    path = save_product(tmp_path / "g.onnx", onnx.TensorProto.FLOAT, "batch")
    _, trt = load_flavour("tensorrt-rtx")
    builder = EngineBuilder(path, precision=precision, flavour="tensorrt-rtx")
    options = BuildOptions(optimization_level=1, workspace_mib=32)
    config = builder.configure("sm89", DEFAULT_BATCH, options)
    assert config.get_flag(trt.BuilderFlag.TF32) == (precision == "tf32")
    assert config.builder_optimization_level == 1
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 32 << 20
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED


@needs_rtx
def test_bfloat16_is_built_as_bfloat16(tmp_path: Path) -> None:
    path = save_product(tmp_path / "g.onnx", onnx.TensorProto.BFLOAT16, "batch")
    builder = EngineBuilder(path, precision="bf16", flavour="tensorrt-rtx", islands={})
    assert builder.layers["MATRIX_MULTIPLY"] == {"BF16": 1}
    with pytest.raises(CheckFailed, match="the network is not fp16"):
        EngineBuilder(path, precision="fp16", flavour="tensorrt-rtx", islands={})


HALF = {
    "MATRIX_MULTIPLY": {"FLOAT": 5, "HALF": 37},
    "CONVOLUTION": {"FLOAT": 1, "HALF": 2},
    "NORMALIZATION": {"FLOAT": 15},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"MATRIX_MULTIPLY": {"FLOAT": 1, "HALF": 34}}, "MATRIX_MULT", id="product"),
        pytest.param({"MATRIX_MULTIPLY": {"FLOAT": 35}}, "MATRIX_MULTIPLY", id="all-products"),
        pytest.param({"CONVOLUTION": {"FLOAT": 2, "HALF": 1}}, "CONVOLUTION", id="convolution"),
        pytest.param({"CONVOLUTION": {"HALF": 3}}, "CONVOLUTION", id="sobel-in-half"),
        pytest.param({"NORMALIZATION": {"HALF": 15}}, "must be FLOAT", id="island"),
        pytest.param({"SOFTMAX": {"HALF": 1}}, "must be FLOAT", id="softmax"),
    ],
)
def test_wrong_types_are_refused(change: dict[str, dict[str, int]], message: str) -> None:
    check_types(HALF, "fp16", "graph")
    with pytest.raises(CheckFailed, match=message):
        check_types(HALF | change, "fp16", "graph")


QUANTIZED = HALF | {"QUANTIZE": {"INT8": 4}, "DEQUANTIZE": {"HALF": 4}}


def test_quantised_types() -> None:
    check_types(QUANTIZED, "int8", "graph")
    with pytest.raises(CheckFailed, match="QUANTIZE layers are {'INT8': 4}, not FP8"):
        check_types(QUANTIZED, "fp8", "graph")
    with pytest.raises(CheckFailed, match="QUANTIZE layers are {}, not INT8"):
        check_types(HALF, "int8", "graph")


def test_chosen_islands_are_counted() -> None:
    layers = {"MATRIX_MULTIPLY": {"FLOAT": 2, "HALF": 3}, "CONVOLUTION": {"HALF": 3}}
    check_types(layers | {"SOFTMAX": {"HALF": 1}}, "fp16", "graph", {"MATRIX_MULTIPLY": 2})
    with pytest.raises(CheckFailed, match="MATRIX_MULTIPLY"):
        check_types(layers, "fp16", "graph", {"MATRIX_MULTIPLY": 1})


def inspected(*types: str) -> dict[str, Any]:
    outputs = [{"Name": f"t{i}", "Format/Datatype": kind} for i, kind in enumerate(types)]
    ends = {"Name": "score", "Format/Datatype": "Float"}
    layers = [{"Name": f"l{i}", "Outputs": [output]} for i, output in enumerate([*outputs, ends])]
    return {"Layers": [*layers, "a layer without details"], "Bindings": ["hu", "score"]}


@pytest.mark.parametrize(
    ("precision", "types", "passes"),
    [
        pytest.param("fp16", ["Half", "Float"], True, id="half"),
        pytest.param("fp16", ["Row major linear FP16 format"], True, id="half-in-words"),
        pytest.param("fp16", ["Float", "Float"], False, id="silently-float32"),
        pytest.param("fp32", ["Float"], True, id="float32"),
        pytest.param("fp32", ["Float", "Half"], False, id="half-in-float32"),
        pytest.param("bf16", ["BFloat16"], True, id="bfloat16"),
        pytest.param("int8", ["Half", "Int8"], True, id="int8"),
        pytest.param("int8", ["Half"], False, id="no-int8"),
        pytest.param("fp16", [], True, id="fused-into-one"),
    ],
)
def test_types_that_were_built(precision: str, types: list[str], passes: bool) -> None:
    if passes:
        assert sum(check_built(inspected(*types), precision, "engine").values()) == len(types)
    else:
        with pytest.raises(CheckFailed, match="engine: built with"):
            check_built(inspected(*types), precision, "engine")


# As the builder prints it.
LISTING = """Layers:
Name: shape_call_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: 
Name: _gemm_mha_v2_myl0_11, LayerType: kgen, Inputs: [ { Name: q, Dimensions: [-1,64,16], Strides: [16,-1,1], StrideOrder: [1,2,0], Datatype: Half, Format: (Arbitrary) Format with stride order = [1,2,0] }], Constants: [], Outputs: [ { Name: a, Dimensions: [-1,64,16], Strides: [16,-1,1], StrideOrder: [1,2,0], Datatype: Half, Format: (Linear) Row major linear format }, { Name: b, Dimensions: [1], Strides: [1], StrideOrder: [0], Datatype: Float, Format: (Linear) Row major linear format }], TacticName: _gemm_mha_v2_0x55, StreamId: 0, Metadata: [ONNX Layer: n]
Name: __myl_Move_myl0_12, LayerType: kgen, Inputs: [], Constants: [], Outputs: [ { Name: out, Dimensions: [-1,64,16], Strides: [16,-1,1], StrideOrder: [1,2,0], Datatype: Float, Format: (Linear) Row major linear format }], TacticName: __myl_Move_0x62, StreamId: 0, Metadata: 

I/O Tensors:
 Name: q, IOMode: Input, DataType: Half, Dimensions: [-1,3,64,16], Location: Device
 Name: out, IOMode: Output, DataType: Float, Dimensions: [-1,3,64,16], Location: Device
"""  # noqa: E501


def test_the_builders_listing_is_read_like_the_inspectors_report() -> None:
    built = listed_layers(LISTING)
    assert [layer["LayerType"] for layer in built["Layers"]] == ["kgen", "kgen"]
    assert built["Bindings"] == ["q", "out"]
    assert check_built(built, "fp16", "engine") == {"Half": 1, "Float": 1}
    assert fused_attentions(built) == 1
    with pytest.raises(CheckFailed, match="not in fp32 alone"):
        check_built(built, "fp32", "engine")
    assert listed_layers("") == {"Layers": [], "Bindings": []}


class _Attention(torch.nn.Module):
    """Attention of 64x64 tokens from `hu`, and a convolution."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.shift = shift
        self.bias = torch.nn.Parameter(torch.randn(2, 64, 64, generator=generator))
        self.beta = torch.nn.Parameter(torch.ones(2))
        self.gates = torch.nn.Parameter(torch.full((2, 3), 1 / 3))
        self.convolution = torch.nn.Conv2d(32, 1, 1).half()

    def forward(self, hu: torch.Tensor) -> torch.Tensor:
        qkv = torch.cat([hu, 2 * hu], 1).half().reshape(-1, 64, 64, 128).split([96, 32], -1)[0]
        out = window_attention(
            qkv, self.bias, self.beta, self.gates, window=8, shift=self.shift, impl="reference"
        )
        convolved: torch.Tensor = self.convolution(out.permute(0, 3, 1, 2))
        return convolved


@needs_rtx
@pytest.mark.parametrize(
    ("stacked", "shift", "fused"),
    [
        pytest.param(True, 0, 1, id="stacked"),
        pytest.param(True, 4, 0, id="stacked-shifted"),
        pytest.param(False, 0, 0, id="plain"),
    ],
)
def test_stacked_octaves_are_fused(tmp_path: Path, stacked: bool, shift: int, fused: int) -> None:
    path = tmp_path / "attention.onnx"
    with stacked_octaves() if stacked else nullcontext():
        graph = to_onnx(
            _Attention(shift).eval(),
            (torch.zeros(2, 1, 512, 512),),
            opset_version=20,
            input_names=["hu"],
            output_names=["out"],
            dynamic_shapes={"hu": {0: BATCH}},
        )
    onnx_ir.save(simplify(graph), path)
    islands = {"CONVOLUTION": 0, "MATRIX_MULTIPLY": 0}
    builder = EngineBuilder(path, precision="fp16", flavour="tensorrt-rtx", islands=islands)
    engine = builder.build("sm89", DEFAULT_BATCH)
    report = builder.write(engine, tmp_path / "x.engine", "sm89", DEFAULT_BATCH)
    proof = json.loads(report.read_text(encoding="utf-8"))
    assert proof["fused_attentions"] == fused
    assert proof["inspector"] is None and proof["built"]["Half"] >= 1
    assert proof["launches"] >= 3


@pytest.mark.gpu
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_inspector_on_this_gpu(tmp_path: Path, flavour: str) -> None:
    try:
        row, _ = load_flavour(flavour)
        (target,) = resolve_targets(["current"], row)
    except InputError as reason:
        pytest.skip(str(reason))
    path = save_product(tmp_path / "g.onnx", onnx.TensorProto.FLOAT16, "batch")
    builder = EngineBuilder(path, precision="fp16", flavour=flavour, islands={})
    engine = builder.build(target, DEFAULT_BATCH)
    report = builder.write(engine, tmp_path / "x.engine", target, DEFAULT_BATCH)
    assert json.loads(report.read_text(encoding="utf-8"))["inspector"]["Layers"]
