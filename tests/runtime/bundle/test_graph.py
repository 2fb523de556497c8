"""A graph that needs other files or differs from the manifest is not loaded."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from support.tiny_bundle import make_graph, write_bundle

from clinreadnet.errors import InputError, Untrusted
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.files import digest, load_manifest, write_manifest
from clinreadnet.runtime.bundle.graph import check_graph, read_graph
from clinreadnet.runtime.bundle.sign import sign_bundle
from clinreadnet.verify.run import verify_golden


def model() -> onnx.ModelProto:
    return onnx.load_from_string(make_graph())


def external(tensor: TensorProto) -> None:
    external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL


def initializer() -> onnx.ModelProto:
    proto = model()
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "w")
    external(tensor)
    proto.graph.initializer.append(tensor)
    return proto


def only_location() -> onnx.ModelProto:
    proto = model()
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return proto


def constant() -> onnx.ModelProto:
    proto = model()
    node = helper.make_node(
        "Constant", [], ["w"], value=numpy_helper.from_array(np.ones(3, np.float32))
    )
    external(node.attribute[0].t)
    proto.graph.node.append(node)
    return proto


def inner_graph() -> onnx.ModelProto:
    proto = model()
    inner = helper.make_graph([], "inner", [], [])
    inner.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "w"))
    external(inner.initializer[0])
    proto.graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=inner))
    return proto


def sparse() -> onnx.ModelProto:
    proto = model()
    values = numpy_helper.from_array(np.ones(3, np.float32), "w")
    external(values)
    indices = numpy_helper.from_array(np.arange(3))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    return proto


def function() -> onnx.ModelProto:
    proto = model()
    proto.functions.append(
        helper.make_function("d", "f", [], ["w"], [constant().graph.node[-1]], [])
    )
    return proto


def context() -> onnx.ModelProto:
    proto = model()
    proto.graph.node.append(
        helper.make_node("EPContext", [], ["x"], domain="com.microsoft", ep_cache_context="/x.bin")
    )
    return proto


HIDDEN = [initializer, only_location, constant, inner_graph, sparse, function, context]


@pytest.mark.parametrize("make", HIDDEN, ids=[make.__name__ for make in HIDDEN])
def test_a_path_anywhere_in_a_graph_is_found(make: Callable[[], onnx.ModelProto]) -> None:
    with pytest.raises(Untrusted, match="external data|may load another file"):
        check_graph(make().SerializeToString(), "a.onnx")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Return a bundle whose graph reads a weight from a file that the manifest does not list."""
    bundle = write_bundle(tmp_path / "b", precisions=("fp32",))
    relabel(bundle, initializer().SerializeToString())
    (bundle / "weights.bin").write_bytes(np.ones(3, np.float32).tobytes())
    return bundle


def relabel(bundle: Path, content: bytes, precision: str = "fp32") -> None:
    manifest = load_manifest(bundle)
    (bundle / manifest.artifacts[0].file).write_bytes(content)
    artifact = dataclasses.replace(
        manifest.artifacts[0], sha256=digest(content), size=len(content), precision=precision
    )
    write_manifest(dataclasses.replace(manifest, artifacts=(artifact,)), bundle)


def test_weights_outside_the_bundle_are_refused_everywhere(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.bin").write_bytes(np.zeros(3, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    for use in (
        lambda: Session(hostile),
        lambda: Session(hostile, "onnxruntime-cpu"),
        lambda: sign_bundle(hostile, tmp_path / "key.pem"),
    ):
        with pytest.raises(Untrusted, match="external data"):
            use()
    (artifact,) = verify_golden(hostile, load_manifest(hostile)).artifacts
    assert artifact.parity is not None and artifact.parity.status == "failed"
    assert "external data" in str(artifact.parity.reason)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_precision_is_the_graphs_not_the_manifests(tmp_path: Path, precision: str) -> None:
    """A wrong float32 graph would pass the wider budget of another precision."""
    bundle = write_bundle(tmp_path / "b", precisions=("fp32",))
    relabel(bundle, make_graph(score_offset=0.01), precision)
    (artifact,) = verify_golden(bundle, load_manifest(bundle)).artifacts
    assert artifact.parity is not None and artifact.parity.status == "failed"
    assert f"the manifest says {precision}, the graph is fp32" in str(artifact.parity.reason)
    with pytest.raises(Untrusted, match="the graph is fp32"):
        Session(bundle)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_a_plain_graph_passes(half: bool) -> None:
    check_graph(make_graph(half=half), "a.onnx", "fp16" if half else "fp32")


def test_bytes_that_are_no_model_are_refused_without_a_traceback() -> None:
    content = make_graph()
    draw = random.Random(0)
    deep = b""
    for _ in range(100):  # a graph in an attribute of a node of a graph
        deep = b"\x32" + _message(b"\x0a" + _message(b"\x2a" + _message(deep)))
    deep = b"\x3a" + _message(b"\x0a" + _message(b"\x2a" + _message(deep)))
    for damaged in (b"", b"ORTM", content[: len(content) // 2], deep):
        with pytest.raises(InputError, match="not an ONNX graph"):
            read_graph(damaged)
    for _ in range(2000):
        spoiled = bytearray(content)
        for _ in range(draw.randrange(1, 6)):
            spoiled[draw.randrange(len(spoiled))] = draw.randrange(256)
        try:
            read_graph(bytes(spoiled))
        except InputError:
            pass


def _message(content: bytes) -> bytes:
    return _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
