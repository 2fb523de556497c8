"""TensorRT-RTX engines, built here without a GPU."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from export_models import RTX_MISSING
from onnx import helper

from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.export.tensorrt import (
    DEFAULT_BATCH,
    FLAVOURS,
    EngineBuilder,
    FlavourMissing,
    check_types,
    layers_path,
    load_flavour,
)
from clinreadnet.progress import progress_bar
from clinreadnet.runtime.manifest import BatchRange

Graph = Callable[[str, str], Path]
RTX = FLAVOURS["tensorrt-rtx"]

needs_rtx = pytest.mark.skipif(RTX_MISSING is not None, reason=str(RTX_MISSING))

# A Swin written with slices and rolls makes over 3,200.
MOST_LAYERS = {"fp32": 1391, "fp16": 1476}


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_layer_count_does_not_grow(graph: Graph, precision: str) -> None:
    builder = EngineBuilder(graph("small", precision), precision=precision, flavour=RTX)
    total = sum(sum(types.values()) for types in builder.layers.values())
    assert total <= MOST_LAYERS[precision], builder.layers


@needs_rtx
def test_half_engine_is_half(tiny_bundle: Path) -> None:
    engine = tiny_bundle / "clinreadnet.fp16.sm89.rtx.engine"
    proof = json.loads(layers_path(engine).read_text(encoding="utf-8"))
    assert proof["engine"] == engine.name
    assert (proof["precision"], proof["target"], proof["batch"]) == ("fp16", "sm89", [1, 4, 16])
    layers = proof["layers"]
    assert layers["MATRIX_MULTIPLY"] == {"HALF": 35}
    assert layers["CONVOLUTION"] == {"FLOAT": 1, "HALF": 2}
    assert layers["NORMALIZATION"] == {"FLOAT": 15}
    assert layers["SOFTMAX"] == {"FLOAT": 2}
    assert proof["total"] == sum(sum(types.values()) for types in layers.values())


@needs_rtx
def test_a_float32_graph_does_not_pass_for_half(graph: Graph) -> None:
    with pytest.raises(CheckFailed, match="no fp16 network"):
        EngineBuilder(graph("tiny", "fp32"), precision="fp16", flavour=RTX)


@needs_rtx
def test_configuration(graph: Graph) -> None:
    trt = load_flavour(RTX)
    builder = EngineBuilder(graph("tiny", "fp32"), precision="fp32", flavour=RTX)
    assert builder._network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    for target in RTX.targets:
        config = builder.configure(target, DEFAULT_BATCH)
        assert not config.get_flag(trt.BuilderFlag.TF32)
        assert config.num_compute_capabilities == 1
        assert config.get_compute_capability(0).name == target.upper()
        assert config.num_optimization_profiles == 1


@needs_rtx
def test_engine_is_plain_and_of_its_target(graph: Graph) -> None:
    builder = EngineBuilder(graph("tiny", "fp16"), precision="fp16", flavour=RTX)
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
        pytest.param("sm90", DEFAULT_BATCH, "unknown target 'sm90'; .*sm75, sm80", id="hopper"),
    ],
)
def test_refuses(graph: Graph, target: str, batch: BatchRange, message: str) -> None:
    builder = EngineBuilder(graph("tiny", "fp32"), precision="fp32", flavour=RTX)
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
        EngineBuilder(path, precision="fp32", flavour=RTX)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_package_says_what_to_install() -> None:
    flavour = dataclasses.replace(RTX, modules=("no_such_tensorrt",))
    with pytest.raises(FlavourMissing, match=r'not installed; run pip install "clinreadnet\['):
        load_flavour(flavour)


HALF = {
    "MATRIX_MULTIPLY": {"HALF": 35},
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
