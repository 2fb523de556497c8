"""The graphs: their results and their operators."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from support.export_models import RTX_MISSING, disc

from clinreadnet.errors import InputError
from clinreadnet.export.engines.build import EngineBuilder
from clinreadnet.export.onnx.export import export_onnx
from clinreadnet.model.checkpoint import load_checkpoint
from clinreadnet.model.network import PRESETS, ClinReadNet
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.backends.onnxruntime import OnnxRuntimeBackend
from clinreadnet.runtime.comparison import compare_outputs, relative_error
from clinreadnet.runtime.scores import Outputs
from clinreadnet.spec import OUTPUTS
from clinreadnet.verify.emulate import emulate
from clinreadnet.verify.reference import GoldenSlices, reference_outputs

Graph = Callable[[str, str], Path]

GRAPHS = [
    pytest.param("tiny", "fp32", id="tiny-fp32"),
    pytest.param("tiny", "fp16", id="tiny-fp16"),
    pytest.param("small", "fp32", id="small-fp32", marks=pytest.mark.whole),
    pytest.param("small", "fp16", id="small-fp16", marks=pytest.mark.whole),
]
"""`small` is the same code with more blocks; its export takes as long as a minute."""
# Exact where the network decides the number, an upper bound where the exporter does.
LAYER_NORMS, GELUS = {"tiny": 15, "small": 29}, {"tiny": 7, "small": 14}
# A temperature other than 1 makes the last Div.
MOST = {
    "tiny": {
        "Add": 53, "Cast": 44, "Clip": 1, "Concat": 7, "Conv": 3, "Div": 13, "Gelu": 7, "Gemm": 2,
        "LayerNormalization": 15, "Log": 2, "MatMul": 38, "Mul": 44, "Pad": 1, "ReduceMean": 4,
        "ReduceSum": 13, "Reshape": 33, "Softmax": 8, "Split": 10, "Sqrt": 3, "Squeeze": 2,
        "Sub": 5, "Transpose": 19, "Unsqueeze": 2, "Where": 1,
    },
    "small": {
        "Add": 116, "Cast": 86, "Clip": 1, "Concat": 27, "Conv": 3, "Div": 27, "Gelu": 14,
        "Gemm": 2, "LayerNormalization": 29, "Log": 2, "MatMul": 80, "Mul": 93, "Pad": 1,
        "ReduceMean": 4, "ReduceSum": 27, "Reshape": 61, "Softmax": 15, "Split": 37, "Sqrt": 3,
        "Squeeze": 2, "Sub": 5, "Transpose": 40, "Unsqueeze": 2, "Where": 6,
    },
}  # fmt: skip

ISLANDS = (*("Softmax", "LayerNormalization", "Log", "ReduceMean", "ReduceSum", "Gemm", "Sqrt"),)
"""Operators that stay float32 in 16-bit graphs."""


def one_block(checkpoint: Path) -> ClinReadNet:
    """Return the stem, the first block and the head of a network, exported in half the time."""
    model = ClinReadNet(replace(PRESETS["tiny"], depths=(1,), heads=(2,))).eval()
    own = model.state_dict()
    for name, weight in load_checkpoint(checkpoint).state_dict().items():
        if name in own and own[name].shape == weight.shape:
            own[name].copy_(weight)
    return model


def inferred(path: Path) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Return the model, and the element type of every tensor in it."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True)
    graph = model.graph
    types = {t.name: t.data_type for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return model, types


def test_the_encoding_clips_between_offset_and_scale(graph: Graph) -> None:
    """OpenVINO fuses neighbouring offset and scale, and rounds their constants."""
    nodes = onnx.load(graph("tiny", "fp32")).graph.node
    tensor, operators = "hu", []
    for _ in range(3):
        (node,) = (node for node in nodes if tensor in node.input)
        operators.append(node.op_type)
        (tensor,) = node.output
    assert operators == ["Sub", "Clip", "Div"]


@pytest.fixture(scope="module")
def slices() -> GoldenSlices:
    return GoldenSlices(np.stack([disc(noise, seed=1) for noise in (10, 35, 80)]))


@pytest.fixture(scope="module")
def references(
    tiny_checkpoint: Path, small_checkpoint: Path, slices: GoldenSlices
) -> Callable[[str], Outputs]:
    """Compute the reference of a preset, once."""
    paths = {"tiny": tiny_checkpoint, "small": small_checkpoint}
    return functools.cache(lambda preset: reference_outputs(load_checkpoint(paths[preset]), slices))


@pytest.mark.parametrize("batch", [1, 3], ids=["one", "three"])
@pytest.mark.parametrize(("preset", "precision"), GRAPHS)
def test_outputs_match_float64(
    graph: Graph,
    slices: GoldenSlices,
    references: Callable[[str], Outputs],
    preset: str,
    precision: str,
    batch: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = graph(preset, precision)
    capfd.readouterr()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 2  # warnings
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs = session.run(list(OUTPUTS), {"hu": slices.images[:batch, None]})
    for name, output in zip(OUTPUTS, outputs, strict=True):
        assert output.dtype == np.float32
        error = relative_error(output, references(preset)[name][:batch])
        assert error <= PRECISIONS[precision].budget, name
    assert capfd.readouterr() == ("", ""), "onnxruntime has nothing to warn of"


def test_scores_stay_finite_for_absurd_inputs(graph: Graph) -> None:
    session = onnxruntime.InferenceSession(graph("tiny", "fp16"))
    hu = np.stack([np.full((512, 512), v, np.float32) for v in (-3e38, 3e38)])
    for name, output in zip(OUTPUTS, session.run(list(OUTPUTS), {"hu": hu[:, None]}), strict=True):
        assert np.isfinite(output).all(), name


@pytest.mark.parametrize(("preset", "precision"), GRAPHS)
def test_graph_is_what_an_engine_builder_wants(graph: Graph, preset: str, precision: str) -> None:
    model, types = inferred(graph(preset, precision))
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [
        ("", PRECISIONS[precision].opset)
    ]
    constants = {t.name for t in model.graph.initializer}
    assert TensorProto.DOUBLE not in types.values()
    for node in model.graph.node:
        assert node.op_type in MOST[preset], f"{node.op_type} is not an operator of this network"
        if node.op_type == "Reshape":
            assert node.input[1] in constants, f"{node.name}: its shape is computed"
        for output in node.output:
            assert types[output] in (TensorProto.FLOAT, TensorProto.FLOAT16), (
                f"{node.name} computes a {TensorProto.DataType.Name(types[output])}"
            )


@pytest.mark.parametrize(("preset", "precision"), GRAPHS)
def test_operator_counts_do_not_grow(graph: Graph, preset: str, precision: str) -> None:
    counts = Counter(node.op_type for node in onnx.load(graph(preset, precision)).graph.node)
    assert counts["LayerNormalization"] == LAYER_NORMS[preset]
    assert counts["Gelu"] == GELUS[preset]
    assert counts["Cast"] == 0 or precision == "fp16"
    most = MOST[preset]
    grown = {op: (n, most.get(op, 0)) for op, n in counts.items() if n > most.get(op, 0)}
    assert not grown, "now, at most"


@pytest.mark.parametrize("preset", ["tiny", pytest.param("small", marks=pytest.mark.whole)])
def test_half_graph_has_half_products_and_float32_islands(graph: Graph, preset: str) -> None:
    model, types = inferred(graph(preset, "fp16"))
    floats: Counter[str] = Counter()
    for node in model.graph.node:
        kinds = {types[name] for name in node.input if name}
        if node.op_type in ("Conv", "Gelu", "Gemm", "MatMul"):
            assert kinds <= {TensorProto.FLOAT, TensorProto.FLOAT16}, node.name
            floats[node.op_type] += kinds == {TensorProto.FLOAT}
        if node.op_type in ISLANDS:
            assert types[node.input[0]] == TensorProto.FLOAT, node.name
    # The Sobel edges; the MLP of the pooled tokens; mixture, pooled tokens and whitening.
    assert floats == {"Conv": 1, "Gelu": 1, "Gemm": 2, "MatMul": 3}
    assert {types[name] for name in ("hu", *OUTPUTS)} == {TensorProto.FLOAT}


def test_only_the_batch_is_dynamic(graph: Graph) -> None:
    model = onnx.load(graph("tiny", "fp32"))

    def shape(value: onnx.ValueInfoProto) -> list[str | int]:
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    assert {v.name: shape(v) for v in (*model.graph.input, *model.graph.output)} == {
        "hu": ["batch", 1, 512, 512],
        "score": ["batch"],
        "probs": ["batch", 21],
        "quality_map": ["batch", 16, 16],
        "novelty": ["batch"],
    }


@pytest.mark.whole
def test_the_graph_of_the_bundle_is_made_again(
    graph: Graph, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """All blocks, exported again, often in another process."""
    export_onnx(load_checkpoint(tiny_checkpoint), tmp_path / "again", precision="fp16")
    assert (tmp_path / "again").read_bytes() == graph("tiny", "fp16").read_bytes()


def export_bfloat16(model: ClinReadNet, path: Path) -> tuple[ClinReadNet, Path]:
    """Export a network whose whitening has more digits than its checkpoint."""
    with torch.no_grad():
        model.novelty.whitening.add_(1e-7)
    export_onnx(model, path, precision="bf16")
    return model, path


@pytest.fixture(scope="module")
def bfloat16(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ClinReadNet, Path]:
    path = tmp_path_factory.mktemp("bf16") / "clinreadnet.bf16.onnx"
    return export_bfloat16(one_block(tiny_checkpoint), path)


def test_same_weights_same_bytes_and_no_trace_of_this_machine(
    bfloat16: tuple[ClinReadNet, Path], tmp_path: Path
) -> None:
    model, path = bfloat16
    export_onnx(model, tmp_path / "again.onnx", precision="bf16")
    content = (tmp_path / "again.onnx").read_bytes()
    assert content == path.read_bytes()
    assert not re.findall(rb"[\w/]+\.py", content)
    assert {p.dtype for p in model.parameters()} == {torch.float32}, "the model is left alone"


def test_buffers_keep_their_digits(bfloat16: tuple[ClinReadNet, Path]) -> None:
    """Whitening in bfloat16 would change the novelty by more than all other roundings."""
    model, path = bfloat16
    constants = [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    whitening = model.novelty.whitening.numpy()
    (stored,) = [c for c in constants if c.shape == whitening.shape and c.dtype == np.float32]
    np.testing.assert_array_equal(stored, whitening)
    for exact in (model.novelty.mean, model.statistics.shift, model.statistics.scale):
        assert any(np.array_equal(c, exact.numpy()) for c in constants)


def test_unknown_precision(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown precision 'fp12'; known: fp32, fp16, bf16"):
        export_onnx(load_checkpoint(tiny_checkpoint), tmp_path / "x.onnx", precision="fp12")
    assert list(tmp_path.iterdir()) == []


def test_bfloat16_graph(bfloat16: tuple[ClinReadNet, Path]) -> None:
    _, path = bfloat16
    model, types = inferred(path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", PRECISIONS["bf16"].opset)]
    floats: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gelu", "Gemm"):
            kinds = {types[name] for name in node.input}
            assert kinds in ({TensorProto.BFLOAT16}, {TensorProto.FLOAT}), node.name
            floats[node.op_type] += kinds == {TensorProto.FLOAT}
        if node.op_type in ISLANDS:
            assert types[node.input[0]] == TensorProto.FLOAT, node.name
    assert floats == {"Gelu": 1, "Gemm": 2, "MatMul": 3}
    if RTX_MISSING is None:
        builder = EngineBuilder(path, precision="bf16", flavour="tensorrt-rtx")
        products = builder.layers["MATRIX_MULTIPLY"]
        assert set(products) == {"BF16", "FLOAT"} and products["FLOAT"] == 5


@pytest.mark.whole
def test_bfloat16_outputs_match_float64(
    tiny_checkpoint: Path, slices: GoldenSlices, tmp_path: Path
) -> None:
    network, path = export_bfloat16(load_checkpoint(tiny_checkpoint), tmp_path / "bf16.onnx")
    reference = reference_outputs(network, slices)
    outputs = OnnxRuntimeBackend(emulate(path.read_bytes())).run(slices.images[:, None])
    errors = [relative_error(outputs[name], reference[name]) for name in OUTPUTS]
    assert PRECISIONS["fp16"].budget / 10 < max(errors) <= PRECISIONS["bf16"].budget
    comparison = compare_outputs(outputs, reference, PRECISIONS["bf16"].limits())
    assert comparison.failures() == []
