"""Export graphs with plugin nodes, whose ONNX functions are the references of the ops.

A node of domain ``clinreadnet`` is a plugin if TensorRT's registry has a plugin of that name, which
takes precedence in TensorRT's ONNX parser. Otherwise, as in ONNX Runtime and `verify`, it calls the
function of that name, whose body is the op's reference. The same file is used for both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
import triton
from onnx import helper
from onnxscript import opset20, values
from torch import Tensor, nn

from clinreadnet.errors import CheckFailed
from clinreadnet.export.onnx.export import GRAPH_NAME, fold, lowered, to_onnx, traced
from clinreadnet.export.plugins.plan import Plan, PluginNode
from clinreadnet.export.plugins.register import NAMESPACE
from clinreadnet.export.plugins.request import plugin_ops
from clinreadnet.files import whole_file
from clinreadnet.kernels.dispatch import traced_as_ops
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import LAYER_NORM_EPS
from clinreadnet.limits import LARGEST_BATCH
from clinreadnet.model.network import Block, ClinReadNet, PatchMerging
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.bundle.files import digest
from clinreadnet.runtime.bundle.manifest import Artifact
from clinreadnet.runtime.bundle.plugins import PluginNodes, Plugins, PtxFile
from clinreadnet.spec import RESEARCH_USE

_OPSET = 1
_ATTRIBUTES: dict[str, str | int] = {"plugin_namespace": NAMESPACE, "plugin_version": "1", "aot": 1}
"""Attributes by which TensorRT's ONNX parser finds the plugin of a node. ``aot`` requires the
kernel that was compiled ahead of time."""

_CHANNELS_LAST, _CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


_Call = tuple[str, dict[str, Any]]
"""Op of a traced network, with its constants."""


def export_plugin_graph(model: ClinReadNet, path: str | os.PathLike[str], *, plan: Plan) -> None:
    """Export ``model`` with the plugins of ``plan``. The bytes depend only on the weights.

    Args:
        model: float32 network in evaluation mode; not changed.
        path: target file; replaced if it exists.
        plan: plan of the plugins.

    Raises:
        CheckFailed: the layers of the plan are not these ops in the network.
    """
    row = PRECISIONS[plan.precision]
    calls: list[_Call] = []
    with _with_ops(lowered(model, getattr(torch, row.torch_dtype)), plan) as network:
        graph = traced(network, row.opset, _translations(calls))
    nodes = [node for node in graph.graph if node.domain == NAMESPACE]
    planned = _planned(model, plan)
    _name_nodes(nodes, calls, planned)
    bodies = _bodies(nodes, calls, planned, row.opset)
    fold(graph)
    graph.graph.name = GRAPH_NAME
    graph.doc_string = (
        f"ClinReadNet {model.config.preset}, {plan.precision}, with plugins. {RESEARCH_USE}"
    )
    proto = onnx_ir.to_proto(graph)
    proto.functions.extend(bodies)
    if all(opset.domain != NAMESPACE for opset in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(NAMESPACE, _OPSET))
    onnx.checker.check_model(proto, full_check=True)
    with whole_file(path) as temporary:
        onnx.save_model(proto, temporary)


def write_plugin_graph(model: ClinReadNet, plan: Plan, plain: Artifact, folder: Path) -> Artifact:
    """Write a plugin graph and its PTX beside the plain graph; return its entry.

    Args:
        model: the network.
        plan: plan of the plugins.
        plain: entry of the graph without plugins.
        folder: folder of the bundle.
    """
    path = folder / f"{Path(plain.file).stem}.plugins.onnx"
    export_plugin_graph(model, path, plan=plan)
    content = path.read_bytes()
    files = []
    for target, kernels in plan.kernels.items():
        for name, kernel in kernels.items():
            code = kernel.ptx.encode()
            file = f"{path.stem}.{target}.{name}.ptx"
            (folder / file).write_bytes(code)
            files.append(PtxFile(file, digest(code), len(code), name, target, kernel.isa))
    plugins = Plugins(
        triton=triton.__version__,
        nodes=tuple(PluginNodes(n.name, n.op, n.source.name, n.layers) for n in plan.nodes),
        native=dict(plan.native),
        ptx=tuple(files),
    )
    return replace(
        plain,
        file=path.name,
        sha256=digest(content),
        size=len(content),
        toolchain=plain.toolchain | {"triton": triton.__version__},
        plugins=plugins,
    )


@contextmanager
def _with_ops(network: ClinReadNet, plan: Plan) -> Iterator[ClinReadNet]:
    """Make the layers of the plan call their ops, and all others the references."""
    for op in plugin_ops():
        import_module(f"clinreadnet.kernels.ops.{op}.kernel")  # registers the op with torch
    attention, windows, mlp = map(
        set, map(plan.layers, ("attention_block", "window_attention", "mlp"))
    )
    network.stem.kernels = "triton" if plan.layers("sobel_stem") else "reference"
    network.stem.fuses_encoding = False
    for part in (network.head, network.statistics, network.novelty):
        part.kernels = "reference"
    for name, block in network.named_modules():
        if isinstance(block, PatchMerging):
            block.fuses_linear = False
        if isinstance(block, Block):
            block.fuses_attention, block.fuses_mlp = name in attention, name in mlp
            block.fuses_linear = False
            called = name in attention or f"{name}.attention" in windows
            block.attention.kernels = "triton" if called else "reference"
            block.kernels = "triton" if name in mlp else "reference"
    with traced_as_ops():
        yield network


def _planned(model: ClinReadNet, plan: Plan) -> list[tuple[str, PluginNode]]:
    """Return the layers of the plan with their plugins, in execution order."""
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    rank = {op: i for i, op in enumerate(plugin_ops())}
    calls = [
        (order[layer.removesuffix(".attention")], rank[node.op], f"{layer}.{node.op}", node)
        for node in plan.nodes
        for layer in node.layers
    ]
    return [(name, node) for _, _, name, node in sorted(calls, key=lambda call: call[:2])]


def _translations(calls: list[_Call]) -> dict[Any, Callable[..., Any]]:
    """Return functions that translate each op to a node of our domain and record the call."""
    domain = values.Opset(NAMESPACE, _OPSET)
    return {
        getattr(torch.ops.clinreadnet, op).default: _translation(op, domain, calls)
        for op in plugin_ops()
    }


def _translation(op: str, domain: Any, calls: list[_Call]) -> Callable[..., Any]:
    schema = onnx.defs.OpSchema
    any_float = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
    node = values.Op(
        domain,
        op,
        schema(
            op,
            NAMESPACE,
            _OPSET,
            inputs=[
                schema.FormalParameter(
                    "inputs",
                    "T",
                    param_option=schema.FormalParameterOption.Variadic,
                    is_homogeneous=False,
                )
            ],
            outputs=[schema.FormalParameter("out", "R")],
            type_constraints=[("T", any_float, ""), ("R", any_float, "")],
        ),
    )

    def write(*tensors: Any, **constants: Any) -> Any:
        calls.append((op, constants))
        out = node(*tensors)
        if not OPS[op].channels_last:
            return out
        # The network's tensor has the layout [B, C, H, W].
        batch, _, height, width = tensors[0].shape
        half = [(int(side) + 1) // 2 for side in (height, width)]
        out.dtype = tensors[1].dtype
        out.shape = onnx_ir.Shape([batch, *half, tensors[1].shape[0]])
        return opset20.Transpose(out, perm=list(_CHANNELS_FIRST))

    return write


def _name_nodes(
    nodes: Sequence[onnx_ir.Node], calls: list[_Call], planned: Sequence[tuple[str, PluginNode]]
) -> None:
    """Check that each node is the planned one, and name it after plugin and layer."""
    called, wanted = [op for op, _ in calls], [node.op for _, node in planned]
    if called != wanted:
        raise CheckFailed(
            f"the network calls {called}, the plan has {wanted}; name other ops as `plugins`"
        )
    for node, (_, constants), (name, plugin) in zip(nodes, calls, planned, strict=True):
        shape = plugin.source.shape
        baked: dict[str, Any] = {"window": shape.window, "shift": shape.shift}
        baked |= {"eps": LAYER_NORM_EPS, "lowest": None, "span": None}
        wrong = {key: value for key, value in constants.items() if value != baked[key]}
        if wrong:
            raise CheckFailed(f"{name}: the network has {wrong}, the kernel is of {baked}")
        node.op_type, node.name = plugin.name, name
        for attribute in onnx_ir.convenience.convert_attributes(_ATTRIBUTES):
            node.attributes.add(attribute)


class _Bodies(nn.Module):
    """Module that calls the reference of each plugin on its own inputs."""

    def __init__(self, calls: Sequence[tuple[str, Mapping[str, Any], int]]) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Concatenated inputs of all plugins -> their outputs."""
        results, first = [], 0
        for op, constants, count in self.calls:
            reference = getattr(
                import_module(f"clinreadnet.kernels.ops.{op}.reference"), f"{op}_reference"
            )
            out = reference(*tensors[first : first + count], **constants)
            results.append(out.permute(_CHANNELS_LAST) if OPS[op].channels_last else out)
            first += count
        return tuple(results)


def _bodies(
    nodes: Sequence[onnx_ir.Node],
    calls: list[_Call],
    planned: Sequence[tuple[str, PluginNode]],
    opset: int,
) -> list[onnx.FunctionProto]:
    """Return an ONNX function for each plugin: the reference, traced at the shape."""
    plugin_nodes: dict[str, tuple[onnx_ir.Node, str, dict[str, Any]]] = {}
    for node, (_, constants), (_, plugin) in zip(nodes, calls, planned, strict=True):
        plugin_nodes.setdefault(plugin.name, (node, plugin.op, constants))
    tensors: list[Tensor] = []
    shapes: list[dict[int, Any]] = []
    names: dict[str, list[str]] = {}
    for plugin_name, (node, _, _) in plugin_nodes.items():
        names[plugin_name] = [f"{plugin_name}.{i}" for i in range(len(node.inputs))]
        for i, value in enumerate(node.inputs):
            assert value is not None and value.shape is not None and value.dtype is not None
            sizes = [item if isinstance(item, int) else 2 for item in value.shape]
            dtype = onnx_ir.tensor_adapters.to_torch_dtype(value.dtype)
            tensors.append(torch.zeros(sizes, dtype=dtype))
            batch = torch.export.Dim(f"batch{len(shapes)}", min=1, max=LARGEST_BATCH)
            shapes.append({0: batch} if i == 0 else {})
    module = _Bodies(
        [(op, constants, len(node.inputs)) for node, op, constants in plugin_nodes.values()]
    )
    graph = to_onnx(
        module.eval(),
        tuple(tensors),
        opset_version=opset,
        input_names=[name for item in names.values() for name in item],
        output_names=[f"{name}.out" for name in plugin_nodes],
        dynamic_shapes={"tensors": tuple(shapes)},
    )
    whole = onnx_ir.to_proto(fold(graph)).graph
    return [_function(whole, name, inputs, opset) for name, inputs in names.items()]


def _function(
    graph: onnx.GraphProto, name: str, inputs: Sequence[str], opset: int
) -> onnx.FunctionProto:
    """Return the subgraph of an output as a function."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    output = f"{name}.out"
    wanted, kept = {output}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted.update(node.input)
    held = [
        helper.make_node("Constant", [], [constant], value=constants[constant])
        for constant in sorted(wanted & constants.keys())
    ]
    return helper.make_function(
        NAMESPACE,
        name,
        list(inputs),
        [output],
        [*held, *reversed(kept)],
        [helper.make_opsetid("", opset)],
        list(_ATTRIBUTES),
    )
