"""The verification of a graph without its quantisers, and on slices without a score."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.tiny_bundle import make_graph, reference

from clinreadnet.runtime.bundle.manifest import BatchRange
from clinreadnet.verify.compare import Evidence
from clinreadnet.verify.emulate import without_quantisers
from clinreadnet.verify.graph import verify_graph
from clinreadnet.verify.reference import GoldenSlices

HU = np.random.default_rng(0).normal(40, 300, (3, 512, 512)).astype(np.int16)
KINDS = np.array(["simulated", "metal", "air"])


def evidence(labels: list[float]) -> Evidence:
    return Evidence(GoldenSlices(HU, KINDS), reference(HU), np.array(labels))


def quantised(scale: float, offset: float = 0.0) -> bytes:
    """Return the graph with 8-bit means of the patches, quantised with the step ``scale``."""
    model = onnx.load_model_from_string(make_graph(score_offset=offset))
    graph = model.graph
    (means,) = [n for n in graph.node if "means" in n.output]
    means.output[0] = "exact"
    at = list(graph.node).index(means) + 1
    graph.initializer.extend(
        [
            helper.make_tensor("step", TensorProto.FLOAT, [], [scale]),
            helper.make_tensor("origin", TensorProto.INT8, [], [0]),
        ]
    )
    pair = [
        helper.make_node("QuantizeLinear", ["exact", "step", "origin"], ["whole"]),
        helper.make_node("DequantizeLinear", ["whole", "step", "origin"], ["means"]),
    ]
    nodes = [*list(graph.node)[:at], *pair, *list(graph.node)[at:]]
    del graph.node[:]
    graph.node.extend(nodes)
    model.opset_import[0].version = 20
    return bytes(model.SerializeToString())


def test_quantisers_are_bypassed_in_pairs() -> None:
    model = onnx.load_model_from_string(without_quantisers(quantised(0.0078125)))
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"QuantizeLinear", "DequantizeLinear"}
    assert "exact" in {name for node in model.graph.node for name in node.input}


@pytest.mark.parametrize(
    ("scale", "offset", "reason"),
    [
        pytest.param(0.0078125, 0.0, None, id="right"),
        # Inside the budget of int8, 5e-2, and outside that of float16, 5e-3.
        pytest.param(0.0078125, 0.05, "without its quantisers, score is off by", id="hidden"),
        pytest.param(0.25, 0.0, "a slice's novelty is off by", id="wrong-scale"),
    ],
)
def test_a_quantised_graph_is_judged_with_and_without_its_quantisers(
    scale: float, offset: float, reason: str | None
) -> None:
    given = evidence([1.0, 2.0, 3.0])
    unlabelled = Evidence(given.slices, given.reference, np.full(3, np.nan))
    parity, _ = verify_graph(quantised(scale, offset), "int8", BatchRange(1, 1, 1), unlabelled)
    if reason is None:
        assert parity.status == "passed", parity.reason
        assert max(parity.details["without_quantisers"].values()) < 5e-3
        assert parity.details["slices_off"] == []
    else:
        assert parity.status == "failed" and reason in str(parity.reason)
        assert ("without its quantisers" in str(parity.reason)) == (offset > 0)
        assert parity.details["slices_off"][1] == "golden slice 1 (metal)"


def test_metrics_exclude_slices_without_a_score() -> None:
    graph = make_graph()
    scored, _ = verify_graph(graph, "fp32", BatchRange(1, 1, 1), evidence([1.0, 3.0, np.nan]))
    assert scored.status == "passed"
    assert scored.details["labelled_slices"] == 2
    assert set(scored.metric_difference) == {"PLCC", "SROCC", "KROCC"}
    alone, _ = verify_graph(graph, "fp32", BatchRange(1, 1, 1), evidence([1.0, *2 * [np.nan]]))
    assert alone.status == "passed" and alone.metric_difference == {}
