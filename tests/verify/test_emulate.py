"""The emulation of 16-bit tensors: operators that only move values do not round."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from clinreadnet.verify import emulate as emulation
from clinreadnet.verify.emulate import emulate


def float16_graph() -> bytes:
    """Return a graph that splits, joins and turns float16 values before it multiplies them."""
    weights = np.random.default_rng(0).normal(0, 1, (8, 8)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["x"], ["low"], to=TensorProto.FLOAT16),
        helper.make_node("Split", ["low"], ["a", "b"], axis=1, num_outputs=2),
        helper.make_node("Concat", ["b", "a"], ["joined"], axis=1),
        helper.make_node("Transpose", ["joined"], ["turned"], perm=[1, 0]),
        helper.make_node("Reshape", ["turned", "shape"], ["shaped"]),
        helper.make_node("MatMul", ["shaped", "weights"], ["product"]),
        helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "moves",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 8])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([8, 8]), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def run(content: bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def roundings(content: bytes) -> int:
    """Count the casts that leave a rounded value in float32."""
    nodes = onnx.load_model_from_string(content).graph.node
    return sum(node.output[0].endswith("_rounded") for node in nodes)


def test_what_moves_values_is_not_rounded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(1).normal(0, 1, (8, 8)).astype(np.float32)
    fast = emulate(float16_graph())
    monkeypatch.setattr(emulation, "MOVES", frozenset())
    everywhere = emulate(float16_graph())
    assert (roundings(fast), roundings(everywhere)) == (2, 7)  # the first cast and the product
    np.testing.assert_array_equal(run(fast, x), run(everywhere, x))
    low = x.astype(np.float16).astype(np.float32)
    turned = np.concatenate([low[:, 4:], low[:, :4]], axis=1).T
    weights = numpy_helper.to_array(
        onnx.load_model_from_string(float16_graph()).graph.initializer[0]
    )
    product = (turned @ weights.astype(np.float32)).astype(np.float16)
    np.testing.assert_allclose(run(fast, x), product.astype(np.float32), rtol=1e-3)
    assert np.array_equal(run(fast, x), run(fast, x).astype(np.float16).astype(np.float32))
