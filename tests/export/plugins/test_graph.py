"""The plugin graph computes the same as the plain graph, and all readers of graphs accept it."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from clinreadnet.errors import CheckFailed, Untrusted
from clinreadnet.export.engines.check import check_graph
from clinreadnet.export.onnx.export import export_onnx
from clinreadnet.export.plugins.graph import export_plugin_graph
from clinreadnet.export.plugins.plan import Plan, make_plan
from clinreadnet.model.network import ClinReadNet, ClinReadNetConfig
from clinreadnet.runtime.backends.onnxruntime import OnnxRuntimeBackend
from clinreadnet.runtime.bundle.graph import check_graph as check_content
from clinreadnet.runtime.bundle.graph import read_graph
from clinreadnet.verify.emulate import emulate

CONFIG = ClinReadNetConfig("two-stages", embed_dim=48, depths=(2, 1), heads=(3, 6))
OPS = ("sobel_stem", "window_attention", "attention_block", "mlp")


@pytest.fixture(scope="module")
def model() -> ClinReadNet:
    """Return two stages of `small`: every op, both shifts, and a block with unfused attention."""
    torch.manual_seed(0)
    network = ClinReadNet(CONFIG).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def plain(model: ClinReadNet, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make the graph of a precision, once."""
    folder = tmp_path_factory.mktemp("plain")

    @functools.cache
    def make(precision: str) -> Path:
        path = folder / f"{precision}.onnx"
        export_onnx(model, path, precision=precision)
        return path

    return make


@pytest.fixture(scope="module")
def plugins(model: ClinReadNet, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make the graph of a precision with its plugins, once."""
    folder = tmp_path_factory.mktemp("plugins")

    @functools.cache
    def make(precision: str) -> Path:
        path = folder / f"{precision}.plugins.onnx"
        plan = make_plan(CONFIG, OPS, precision, (), named=False)
        export_plugin_graph(model, path, plan=plan)
        return path

    return make


PRECISIONS = pytest.mark.parametrize(
    "precision", [pytest.param("fp32", marks=pytest.mark.whole), "fp16"]
)
"""The same functions and nodes: float16 leaves out fewer, and is compared to the last bit."""


def nodes(path: Path) -> dict[str, str]:
    """Return the operator of each plugin node, by the node's name."""
    model = onnx.load(path)
    return {node.name: node.op_type for node in model.graph.node if node.domain == "clinreadnet"}


def test_nodes_are_the_planned_ops_with_what_tensorrt_reads(plugins: Callable[[str], Path]) -> None:
    assert nodes(plugins("fp16")) == {
        "stem.sobel_stem": "sobel_stem_512x512",
        "stages.0.0.attention_block": "attention_block_48_shift0_128x128",
        "stages.0.0.mlp": "mlp_48_16384",
        "stages.0.1.attention_block": "attention_block_48_shift4_128x128",
        "stages.0.1.mlp": "mlp_48_16384",
        "stages.1.1.attention.window_attention": "window_attention_shift0_64x64x6",
        "stages.1.1.mlp": "mlp_96_4096",
    }
    model = onnx.load(plugins("fp16"))
    for node in (node for node in model.graph.node if node.domain == "clinreadnet"):
        read = {
            attribute.name: onnx.helper.get_attribute_value(attribute)
            for attribute in node.attribute
        }
        assert read == {"plugin_namespace": b"clinreadnet", "plugin_version": b"1", "aot": 1}
    called = set(nodes(plugins("fp16")).values())
    assert {function.name for function in model.functions} == called
    assert not any(inner.domain == "clinreadnet" for f in model.functions for inner in f.node)


@pytest.mark.whole
def test_a_kernel_that_refuses_a_type_leaves_its_op_native(
    plugins: Callable[[str], Path],
) -> None:
    """In float32 `window_attention` runs the layers that `attention_block` refuses."""
    operators = nodes(plugins("fp32"))
    assert "stages.0.0.attention_block" not in operators
    assert operators["stages.0.1.attention.window_attention"] == "window_attention_shift4_128x128x3"


@pytest.mark.whole
@PRECISIONS
def test_onnx_runtime_computes_what_the_plain_graph_does(
    plain: Callable[[str], Path], plugins: Callable[[str], Path], precision: str
) -> None:
    """Float16 is emulated by rounding each tensor. The graphs then agree bit by bit."""
    hu = np.random.default_rng(0).normal(40, 200, (3, 1, 512, 512)).astype(np.float32)
    outputs = []
    for graph in (plugins, plain):
        content = graph(precision).read_bytes()
        backend = OnnxRuntimeBackend(content if precision == "fp32" else emulate(content))
        outputs.append(backend.run(hu))
    for name, expected in outputs[1].items():
        error = np.linalg.norm(outputs[0][name] - expected) / np.linalg.norm(expected)
        assert error <= (2e-6 if precision == "fp32" else 0.0), name


@PRECISIONS
def test_the_runtime_reads_a_graph_with_functions(
    plain: Callable[[str], Path], plugins: Callable[[str], Path], precision: str
) -> None:
    content = plugins(precision).read_bytes()
    check_content(content, "graph")
    with_plugins, without = read_graph(content), read_graph(plain(precision).read_bytes())
    kind = {"fp32": "FLOAT", "fp16": "FLOAT16"}[precision]
    assert with_plugins.tensor_bytes[kind] == pytest.approx(without.tensor_bytes[kind], rel=0.02)
    assert with_plugins.operators["mlp_48_16384"] == 2
    assert with_plugins.operators["Gelu"] <= without.operators["Gelu"]


def test_a_tensor_in_another_file_is_found_inside_a_function(
    plugins: Callable[[str], Path],
) -> None:
    model = onnx.load(plugins("fp16"))
    function = next(function for function in model.functions if "shift4" in function.name)
    constant = next(node for node in function.node if node.op_type == "Constant")
    tensor = constant.attribute[0].t
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../other")
    with pytest.raises(Untrusted, match="keeps weights in another file"):
        check_content(model.SerializeToString(), "graph")
    constant.op_type = "EPContext"
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    with pytest.raises(Untrusted, match="EPContext may load another file"):
        check_content(model.SerializeToString(), "graph")


def test_check_graph_judges_the_functions_and_says_so(
    plain: Callable[[str], Path], plugins: Callable[[str], Path], tmp_path: Path
) -> None:
    expected = check_graph(plain("fp16"))
    verdicts = check_graph(Path(shutil.copy(plugins("fp16"), tmp_path / "g.onnx")))
    assert [verdict.blockers for verdict in verdicts] == [v.blockers for v in expected]
    assert all("7 nodes are plugins where a build registers" in str(v.note) for v in verdicts)


@pytest.mark.whole
def test_the_same_weights_give_the_same_bytes(
    model: ClinReadNet, plugins: Callable[[str], Path], tmp_path: Path
) -> None:
    """The plan decides, and not the kernels that the network was created with."""
    plan = make_plan(CONFIG, OPS, "fp16", (), named=False)
    again = ClinReadNet(CONFIG, kernels="auto").eval()
    again.load_state_dict(model.state_dict())
    export_plugin_graph(again, tmp_path / "again.onnx", plan=plan)
    assert (tmp_path / "again.onnx").read_bytes() == plugins("fp16").read_bytes()
    assert b"/" + b"home" not in plugins("fp16").read_bytes()
    assert str(Path.cwd()).encode() not in plugins("fp16").read_bytes()


@pytest.mark.whole
def test_a_network_that_does_not_call_what_is_planned_is_refused(
    tmp_path: Path,
) -> None:
    config = replace(CONFIG, depths=(1,), heads=(3,))
    plan = make_plan(config, ("mlp",), "fp16", ())
    shape: Any = plan.nodes[0]
    more = Plan(plan.precision, (replace(shape, layers=2 * shape.layers),), {}, plan.kernels)
    with pytest.raises(CheckFailed, match="name other ops as `plugins`"):
        export_plugin_graph(ClinReadNet(config).eval(), tmp_path / "x.onnx", plan=more)
    assert list(tmp_path.iterdir()) == []
