"""Emulate the 16-bit tensors of a graph on a CPU."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from clinreadnet.errors import InputError, first_line
from clinreadnet.precision import PRECISIONS, lowered_precisions

MOVES = frozenset(("Concat", "Identity", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze"))
"""Operators that only move values: rounded inputs give rounded outputs."""


def onnx_type(precision: str) -> TensorProto.DataType:
    """Return the ONNX type of weights and activations of a precision."""
    return getattr(TensorProto, PRECISIONS[precision].onnx_type)


def emulate(content: bytes) -> bytes:
    """Rewrite a graph so that its 16-bit tensors are rounded on every backend.

    Float16 and bfloat16 operators compute in float32 from rounded inputs, and their result is
    rounded. ONNX Runtime's CPU provider does not support bfloat16, and it keeps float32 values
    between float16 operators, which would hide range and rounding errors.

    Args:
        content: bytes of an ONNX graph.

    Raises:
        InputError: the bytes are not an ONNX graph.
    """
    try:
        model = without_functions(onnx.load_model_from_string(content))
        types = element_types(model)
    except Exception as error:  # errors of protobuf and onnx have no common base class
        raise InputError(f"not an ONNX graph ({first_line(error)})") from None
    graph = model.graph
    low = {onnx_type(precision) for precision in lowered_precisions()}
    for tensor in graph.initializer:
        if tensor.data_type in low:
            tensor.CopyFrom(cast_constant(tensor, tensor.name, TensorProto.FLOAT))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        rounded = [name for name in node.output if types[name] in low]
        if node.op_type in MOVES:
            rounded = []
        to_low = node.op_type == "Cast" and rounded
        if not to_low:
            nodes.append(node)
        for name in rounded:
            source = node.input[0] if to_low else f"{name}_exact"
            if not to_low:
                node.output[list(node.output).index(name)] = source
            nodes.append(cast_node(source, f"{name}_rounded", types[name]))
            nodes.append(cast_node(f"{name}_rounded", name, TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    (standard,) = (opset for opset in model.opset_import if opset.domain in ("", "ai.onnx"))
    standard.version = 20  # newest version that ONNX Runtime's CPU provider supports
    return bytes(model.SerializeToString())


def without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Inline the functions of a graph."""
    if not model.functions:
        return model
    model = onnx.inliner.inline_local_functions(model)
    used = {"", "ai.onnx", *(node.domain for node in model.graph.node)}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def without_quantisers(content: bytes) -> bytes:
    """Remove each pair of quantise and dequantise nodes from a graph.

    Args:
        content: bytes of an ONNX graph.
    """
    model = onnx.load_model_from_string(content)
    graph = model.graph
    quantised = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    exact = {
        n.output[0]: quantised[n.input[0]]
        for n in graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in quantised
    }
    kept = [n for n in graph.node if n.output[0] not in exact and n.output[0] not in quantised]
    for node in kept:
        for i, name in enumerate(node.input):
            node.input[i] = exact.get(name, name)
    del graph.node[:]
    graph.node.extend(kept)
    return bytes(model.SerializeToString())


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every tensor of a graph, by name."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def cast_node(source: str, target: str, to: int) -> onnx.NodeProto:
    """Return a node that casts the tensor ``source`` to the type ``to`` as ``target``."""
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=to)


def cast_constant(tensor: TensorProto, name: str, to: int) -> TensorProto:
    """Return a constant of the type ``to`` with the name ``name``."""
    array = numpy_helper.to_array(tensor)
    dtype = helper.tensor_dtype_to_np_dtype(to)
    with np.errstate(over="ignore"):  # overflows are found by the comparison
        return numpy_helper.from_array(array.astype(dtype), name)
