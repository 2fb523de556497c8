"""Mixed precision by operator: convert graphs and search for nodes that must stay float32.

`convert` converts a float32 graph to float16 or bfloat16, except for its float32 islands.
`find_islands` bisects for a minimal set of islands within the error budget. It runs the emulated
graph (`emulate`) in ONNX Runtime: tensors have the range and the rounding of the low precision, and
sums inside a product are float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from clinreadnet.errors import CheckFailed
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.backends.onnxruntime import OnnxRuntimeBackend
from clinreadnet.runtime.comparison import run_and_compare
from clinreadnet.verify.emulate import (
    cast_constant,
    cast_node,
    element_types,
    emulate,
    onnx_type,
)

SEARCH_MARGIN = 0.5
"""Share of the budget for the search, because it compares only a few slices."""

_PRODUCTS = {"MatMul": "MATRIX_MULTIPLY", "Gemm": "MATRIX_MULTIPLY", "Conv": "CONVOLUTION"}


def convert(model: onnx.ModelProto, precision: str, islands: Sequence[str] = ()) -> onnx.ModelProto:
    """Convert a float32 graph except for its islands. Inputs and outputs stay float32.

    Args:
        model: float32 graph with named nodes; not changed.
        precision: precision that a float32 graph can be converted to.
        islands: names of the nodes that stay in float32.

    Returns:
        The graph with a cast at every change of precision.
    """
    low = onnx_type(precision)
    kept = set(islands)
    types = element_types(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    held = {value.name: TensorProto.FLOAT for value in model.graph.input}
    nodes: list[onnx.NodeProto] = []
    initializers: dict[str, TensorProto] = {}
    cast: dict[tuple[str, int], str] = {}

    def as_type(name: str, wanted: int) -> str:
        """Return the name of a value in the wanted type, with at most one cast."""
        if types.get(name) != TensorProto.FLOAT:
            if name in constants:
                initializers[name] = constants[name]
            return name
        if name in constants:
            typed = name if wanted == TensorProto.FLOAT else f"{name}_low"
            if typed not in initializers:
                initializers[typed] = cast_constant(constants[name], typed, wanted)
            return typed
        if held[name] == wanted:
            return name
        if (name, wanted) not in cast:
            suffix = "low" if wanted == low else "fp32"
            cast[name, wanted] = f"{name}_{suffix}"
            nodes.append(cast_node(name, cast[name, wanted], wanted))
        return cast[name, wanted]

    for node in model.graph.node:
        wanted = TensorProto.FLOAT if node.name in kept else low
        lowered = onnx.NodeProto()
        lowered.CopyFrom(node)
        lowered.ClearField("input")
        lowered.input.extend(as_type(name, wanted) if name else "" for name in node.input)
        if node.op_type == "Cast":
            for attribute in lowered.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = wanted
        nodes.append(lowered)
        held.update((name, wanted) for name in node.output)

    for output in model.graph.output:
        if held[output.name] != TensorProto.FLOAT:
            _rename(nodes, output.name, f"{output.name}_low")
            nodes.append(cast_node(f"{output.name}_low", output.name, TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        model.graph.name,
        model.graph.input,
        model.graph.output,
        list(initializers.values()),
        doc_string=model.graph.doc_string,
    )
    result = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", PRECISIONS[precision].opset)],
        ir_version=model.ir_version,
        doc_string=model.doc_string,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
    )
    onnx.checker.check_model(result, full_check=True)
    return result


def find_islands(
    model: onnx.ModelProto,
    precision: str,
    hu: NDArray[Any],
    reference: dict[str, NDArray[Any]],
    advance: Callable[[], None] = lambda: None,
) -> tuple[str, ...]:
    """Return a minimal set of nodes to keep in float32 for the error budget.

    The error is within ``SEARCH_MARGIN`` of the budget, and would not be without any node of the
    set, assuming that more float32 never increases the error.

    Args:
        model: float32 graph.
        precision: precision that a float32 graph can be converted to.
        hu: [n, 512, 512] slices for the comparison.
        reference: float64 outputs of the slices.
        advance: called after each tested graph.

    Raises:
        CheckFailed: the float32 graph itself exceeds that share of the budget.
    """
    limits = PRECISIONS[precision].limits(SEARCH_MARGIN)

    def keeps_budget(islands: Sequence[str]) -> bool:
        lowered = convert(model, precision, islands)
        backend = OnnxRuntimeBackend(emulate(lowered.SerializeToString()))
        comparison = run_and_compare(backend.run, hu, reference, limits)
        advance()
        return not comparison.failures()

    types = element_types(model)
    nodes = [n.name for n in model.graph.node if types[n.output[0]] == TensorProto.FLOAT]
    if keeps_budget(()):
        return ()
    if not keeps_budget(nodes):
        raise CheckFailed(f"the float32 graph itself is off by more than {limits.error:.1e}")
    return tuple(bisect(nodes, keeps_budget))


def float32_products(model: onnx.ModelProto, islands: Sequence[str]) -> dict[str, int]:
    """Count the products among islands, by TensorRT's kind of layer."""
    kinds = Counter(
        _PRODUCTS[node.op_type]
        for node in model.graph.node
        if node.op_type in _PRODUCTS and node.name in islands
    )
    return dict(sorted(kinds.items()))


def bisect(candidates: Sequence[str], passes: Callable[[Sequence[str]], bool]) -> list[str]:
    """Return a minimal subset that passes (QuickXplain, Junker 2004); the whole set passes."""

    def explain(known: list[str], added: bool, rest: list[str]) -> list[str]:
        if added and passes(known):
            return []
        if len(rest) == 1:
            return rest
        half = len(rest) // 2
        second = explain(known + rest[:half], True, rest[half:])
        first = explain(known + second, bool(second), rest[:half])
        return first + second

    return explain([], False, list(candidates))


def _rename(nodes: list[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
