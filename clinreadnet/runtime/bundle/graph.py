"""Inspect the bytes of an ONNX file before a library loads it.

An ONNX file can store tensor values in another file, which is not hashed and which ONNX Runtime and
TensorRT would open by its path. `check_graph` rejects such files and compares the precision of the
graph with the manifest. It parses the protobuf wire format itself: the runtime does not depend on
``onnx``, and no tensor values are copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from clinreadnet.errors import InputError, Untrusted
from clinreadnet.limits import GRAPH_FIELDS, GRAPH_NESTING
from clinreadnet.precision import PRECISIONS

_TYPES = {
    1: "FLOAT",
    2: "UINT8",
    3: "INT8",
    10: "FLOAT16",
    16: "BFLOAT16",
    17: "FLOAT8",
    18: "FLOAT8",
    19: "FLOAT8",
    20: "FLOAT8",
}
"""Names in `onnx.TensorProto` by number, for the types that determine a precision."""

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5

# Fields that contain messages, by message and field number. Names are those of onnx.proto.
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_OP_TYPE, _DATA_TYPE, _EXTERNAL_DATA, _DATA_LOCATION = 4, 2, 13, 14
_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}
_DYNAMIC_QUANTIZER = "DynamicQuantizeLinear"
_PATH_OPERATORS = {"EPContext"}  # a compiled graph of a provider, which can be in another file


class _Malformed(Exception):
    pass


@dataclass
class GraphContent:
    """Content of a graph.

    Attributes:
        operators: number of nodes by operator.
        tensor_bytes: size of the constant tensors in bytes, by type.
        external: whether tensor values are in another file.
        fields: number of fields in all messages.
    """

    operators: Counter[str] = field(default_factory=Counter)
    tensor_bytes: Counter[str] = field(default_factory=Counter)
    external: bool = False
    fields: int = 0

    @property
    def precision(self) -> str:
        """Precision of the graph. Without 8-bit products, it is that of most weights."""
        if _DYNAMIC_QUANTIZER in self.operators:
            return "int8-dynamic"
        if self.operators.keys() & _QUANTIZERS:
            return "fp8" if self.tensor_bytes["FLOAT8"] else "int8"
        floats = {row.onnx_type: row.name for row in reversed(PRECISIONS.values()) if row.exported}
        return max(
            ((self.tensor_bytes[kind], name) for kind, name in floats.items()),
            key=lambda pair: pair[0],
        )[1]


def read_graph(model: bytes) -> GraphContent:
    """Read the content of an ONNX model.

    Args:
        model: bytes of the ``.onnx`` file.

    Raises:
        InputError: the bytes are not an ONNX model.
    """
    content = GraphContent()
    try:
        graphs = _walk(memoryview(model), "Model", content, 0)
        if not graphs:
            raise _Malformed
    except _Malformed:
        raise InputError("not an ONNX graph") from None
    return content


def _types(precision: str) -> tuple[str, str | None, bool]:
    row = PRECISIONS[precision]
    return row.onnx_type, row.quantized_type, row.dynamic


def check_graph(model: bytes, file: str, precision: str | None = None) -> None:
    """Check a graph before anything loads it.

    Args:
        model: bytes of the ``.onnx`` file.
        file: named in errors.
        precision: expected precision; default any.

    Raises:
        Untrusted: the bytes are not an ONNX model, weights or operators are in other files, or the
            precision differs.
    """
    try:
        content = read_graph(model)
    except InputError as error:
        raise Untrusted(f"{file}: {error}; export it again") from None
    if content.external:
        raise Untrusted(
            f"{file}: keeps weights in another file (external data), which is not hashed; save the "
            "model with all weights inside"
        )
    if operator := content.operators.keys() & _PATH_OPERATORS:
        raise Untrusted(f"{file}: {min(operator)} may load another file; export it again")
    if precision is not None and _types(content.precision) != _types(precision):
        raise Untrusted(
            f"{file}: the manifest says {precision}, the graph is {content.precision}; "
            "export the bundle again"
        )


def _walk(content: memoryview, message: str, graph: GraphContent, depth: int) -> int:
    """Read a message; return the number of its fields that contain messages."""
    if depth > GRAPH_NESTING:
        raise _Malformed
    inner = _MESSAGES[message]
    count = data_type = 0
    for number, kind, value in _fields(content):
        graph.fields += 1
        if graph.fields > GRAPH_FIELDS:
            raise _Malformed
        if isinstance(value, memoryview):
            if number in inner:
                _walk(value, inner[number], graph, depth + 1)
                count += 1
            elif message == "Node" and number == _OP_TYPE:
                graph.operators[bytes(value).decode("utf-8", "replace")] += 1
            elif message == "Tensor" and number == _EXTERNAL_DATA:
                graph.external = True
        elif message == "Tensor" and kind == _VARINT:
            if number == _DATA_TYPE:
                data_type = value
            elif number == _DATA_LOCATION and value != 0:
                graph.external = True
    if message == "Tensor":
        graph.tensor_bytes[_TYPES.get(data_type, "other")] += len(content)
    return count


def _fields(content: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield number, wire type and value of each field of a message."""
    at, end = 0, len(content)
    while at < end:
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        value: int | memoryview
        if kind == _VARINT:
            value, at = _varint(content, at)
        elif kind in (_BYTES, _EIGHT, _FOUR):
            size = {_EIGHT: 8, _FOUR: 4}.get(kind, 0)
            if kind == _BYTES:
                size, at = _varint(content, at)
            if size > end - at:
                raise _Malformed
            value, at = content[at : at + size], at + size
        else:  # groups, which are deprecated in protobuf
            raise _Malformed
        if number == 0:
            raise _Malformed
        yield number, kind, value


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(content):
            raise _Malformed
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _Malformed
