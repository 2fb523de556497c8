"""Lowering a graph, and the search for its float32 islands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.export.onnx.precision import bisect, convert, find_islands, float32_products
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.backends.onnxruntime import OnnxRuntimeBackend
from clinreadnet.spec import OUTPUTS
from clinreadnet.verify.emulate import element_types, emulate


def squaring_graph() -> onnx.ModelProto:
    """Return a graph of the root mean square of each patch. Its squares overflow float16."""

    def constant(name: str, value: Any, dtype: int = TensorProto.FLOAT) -> TensorProto:
        array = np.asarray(value)
        return helper.make_tensor(name, dtype, array.shape, array.ravel().tolist())

    def node(kind: str, inputs: list[str], name: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [name], name=f"node_{name}", **attributes)

    nodes = [
        node("AveragePool", ["hu"], "patches", kernel_shape=[32, 32], strides=[32, 32]),
        node("Squeeze", ["patches", "channel"], "means"),
        node("Mul", ["means", "means"], "square"),
        node("Sqrt", ["square"], "root"),
        node("MatMul", ["root", "identity"], "product"),
        node("Mul", ["product", "thousandth"], "quality_map"),
        node("ReduceMean", ["quality_map", "sides"], "score", keepdims=0),
        node("Sub", ["score", "score"], "nought"),
        node("Unsqueeze", ["nought", "channel"], "column"),
        node("Add", ["column", "uniform"], "probs"),
        node("Mul", ["score", "half"], "novelty"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "squaring",
        [value("hu", TensorProto.FLOAT, ["batch", 1, 512, 512])],
        [
            value("score", TensorProto.FLOAT, ["batch"]),
            value("probs", TensorProto.FLOAT, ["batch", 21]),
            value("quality_map", TensorProto.FLOAT, ["batch", 16, 16]),
            value("novelty", TensorProto.FLOAT, ["batch"]),
        ],
        [
            constant("half", 0.5),
            constant("thousandth", 1e-3),
            constant("identity", np.eye(16)),
            constant("uniform", np.full((1, 21), 1 / 21)),
            constant("channel", [1], TensorProto.INT64),
            constant("sides", [1, 2], TensorProto.INT64),
        ],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return squaring_graph()


@pytest.fixture(scope="module")
def hu() -> np.ndarray:
    patches = np.random.default_rng(0).uniform(400, 2000, (2, 16, 16))
    return np.kron(patches, np.ones((32, 32))).astype(np.float32)


@pytest.fixture(scope="module")
def reference(hu: np.ndarray) -> dict[str, np.ndarray]:
    quality_map = hu.astype(np.float64).reshape(2, 16, 32, 16, 32).mean(axis=(2, 4)) / 1000
    return {
        "score": quality_map.mean(axis=(1, 2)),
        "probs": np.full((2, 21), 1 / 21),
        "quality_map": quality_map,
        "novelty": quality_map.mean(axis=(1, 2)) / 2,
    }


def test_the_smallest_set_of_islands_is_found(
    model: onnx.ModelProto, hu: np.ndarray, reference: dict[str, np.ndarray]
) -> None:
    judged: list[int] = []
    islands = find_islands(model, "fp16", hu, reference, lambda: judged.append(1))
    assert islands == ("node_square", "node_root")
    assert len(judged) <= 12, "bisection, not one graph for each subset"
    for kept in (islands, ()):
        content = emulate(convert(model, "fp16", kept).SerializeToString())
        score = OnnxRuntimeBackend(content).run(hu[:, None])["score"]
        if kept:
            np.testing.assert_allclose(score, reference["score"], rtol=2.5e-3)
        else:
            assert not np.isfinite(score).any()


def test_a_format_with_float32s_range_needs_no_island(
    model: onnx.ModelProto, hu: np.ndarray, reference: dict[str, np.ndarray]
) -> None:
    assert find_islands(model, "bf16", hu, reference) == ()


def test_a_budget_that_float32_misses_is_an_error(
    model: onnx.ModelProto,
    hu: np.ndarray,
    reference: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PRECISIONS, "fp16", replace(PRECISIONS["fp16"], budget=1e-12))
    with pytest.raises(CheckFailed, match="the float32 graph itself is off"):
        find_islands(model, "fp16", hu, reference)


@pytest.mark.parametrize(
    "needed",
    [{0}, {19}, {3, 4}, {0, 19}, {2, 9, 17}, set(range(20))],
    ids=lambda needed: "-".join(map(str, sorted(needed)[:3])),
)
def test_bisection_finds_exactly_what_is_needed(needed: set[int]) -> None:
    names = [str(i) for i in range(20)]
    calls: list[Sequence[str]] = []

    def passes(kept: Sequence[str]) -> bool:
        calls.append(kept)
        return needed <= {int(name) for name in kept}

    assert {int(name) for name in bisect(names, passes)} == needed
    if len(needed) < 3:
        assert len(calls) <= 2 * len(needed) * 6


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("islands", [(), ("node_root", "node_product")], ids=["bare", "islands"])
def test_types_follow_the_islands(
    model: onnx.ModelProto, precision: str, islands: tuple[str, ...]
) -> None:
    low = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    lowered = convert(model, precision, islands)
    types = element_types(lowered)
    assert {types[name] for name in ("hu", *OUTPUTS)} == {TensorProto.FLOAT}
    for node in lowered.graph.node:
        floats = {types[name] for name in node.input if name} - {TensorProto.INT64}
        if node.op_type != "Cast":
            wanted = TensorProto.FLOAT if node.name in islands else low
            assert floats == {wanted}, node.name
    assert lowered.graph.name == model.graph.name
    assert float32_products(model, islands) == (
        {"MATRIX_MULTIPLY": 1} if "node_product" in islands else {}
    )


@pytest.mark.parametrize(
    ("low", "dtype"),
    [
        pytest.param(TensorProto.BFLOAT16, ml_dtypes.bfloat16, id="bfloat16"),
        pytest.param(TensorProto.FLOAT16, np.float16, id="float16"),
    ],
)
def test_emulation_is_float32_rounded_after_each_operator(low: int, dtype: Any) -> None:
    value = helper.make_tensor_value_info
    third = np.asarray([1 / 3], np.float32).astype(dtype)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["hu"], ["x"], to=low),
            helper.make_node("Mul", ["x", "third"], ["scaled"]),
            helper.make_node("Add", ["scaled", "x"], ["sum"]),
            helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT),
        ],
        "g",
        [value("hu", TensorProto.FLOAT, [1000])],
        [value("y", TensorProto.FLOAT, [1000])],
        [helper.make_tensor("third", low, [1], third.tobytes(), raw=True)],
    )
    opset = [helper.make_opsetid("", 22)]
    content = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    x = np.random.default_rng(1).normal(0, 20_000, 1000).astype(np.float32)

    def rounded(array: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return array.astype(dtype).astype(np.float32)

    expected = rounded(rounded(rounded(x) * third.astype(np.float32)) + rounded(x))
    assert np.isinf(expected).any() == (low == TensorProto.FLOAT16)
    session = onnxruntime.InferenceSession(emulate(content))
    np.testing.assert_array_equal(session.run(["y"], {"hu": x})[0], expected)


def test_bytes_that_are_no_graph() -> None:
    with pytest.raises(InputError, match="not an ONNX graph"):
        emulate(b"no graph")
