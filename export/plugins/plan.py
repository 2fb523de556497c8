"""Which layers of a network run as plugins, and why the others stay TensorRT's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clinreadnet.errors import InputError
from clinreadnet.export.kernels import network_shape
from clinreadnet.export.plugins.kernel import Native, PluginKernel, plugin_kernel
from clinreadnet.export.plugins.names import PLUGIN_OPS, PORTABLE
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import KernelSource
from clinreadnet.model.network import ClinReadNetConfig
from clinreadnet.precision import PRECISIONS


@dataclass(frozen=True)
class PluginNode:
    """Layers that are the same plugin: one kernel, one shape.

    Attributes:
        name: of the plugin, and operator of its nodes in the graph.
        op: one of ``PLUGIN_OPS``.
        source: the kernel.
        layers: of the network, in order.
        sizes: of the launch for one slice, by name.
    """

    name: str
    op: str
    source: KernelSource
    layers: tuple[str, ...]
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """The plugins of a graph.

    Attributes:
        precision: of the graph.
        nodes: the plugins.
        native: why a kernel is no plugin, by the kernel's name.
        kernels: compiled, by target and by the kernel's name.
    """

    precision: str
    nodes: tuple[PluginNode, ...]
    native: Mapping[str, str]
    kernels: Mapping[str, Mapping[str, PluginKernel]]

    def layers(self, op: str) -> tuple[str, ...]:
        """Return the layers that are plugins of an op."""
        return tuple(layer for node in self.nodes if node.op == op for layer in node.layers)

    def of_target(self, target: str) -> dict[str, PluginKernel]:
        """Return the kernel of each plugin, by the plugin's name."""
        return {node.name: self.kernels[target][node.source.name] for node in self.nodes}


def make_plan(
    config: ClinReadNetConfig,
    ops: Sequence[str],
    precision: str,
    targets: Sequence[str],
    *,
    named: bool = True,
) -> Plan:
    """Compile the kernels and decide which layers are plugins.

    A kernel is a plugin if it can be one on every target. Where `attention_block` and
    `window_attention` both could run a layer, the first does.

    Args:
        config: of the network.
        ops: some of ``PLUGIN_OPS``.
        precision: of the graph, one that PyTorch exports.
        targets: architectures of the engines; if empty, ``PORTABLE``.
        named: whether each op was asked for by name, and must then have a layer.

    Raises:
        InputError: no layer can run as a plugin of an op that was named, or of any op.
    """
    network = network_shape(config)
    targets = tuple(targets) or (PORTABLE,)
    native: dict[str, str] = {}
    kernels: dict[str, dict[str, PluginKernel]] = {target: {} for target in targets}
    taken: dict[str, list[KernelSource]] = {}
    for op in (one for one in PLUGIN_OPS if one in ops):
        refused = []
        if op == "sobel_stem" and not config.use_sobel:
            native[op] = "the network was trained without Sobel edges"
            refused.append(native[op])
        for source in OPS[op].sources(network) if not refused else ():
            try:
                made = {t: plugin_kernel(OPS[op], source, precision, t) for t in targets}
            except Native as reason:
                native[source.name] = str(reason)
                refused.append(str(reason))
                continue
            taken.setdefault(op, []).append(source)
            for target, kernel in made.items():
                kernels[target][source.name] = kernel
        if op not in taken and named:
            raise InputError(f"plugins={op}: no layer in {precision}: {_why(op, refused, network)}")
    if not taken:
        raise InputError(
            f"`plugins`: no op can be one in {precision}: "
            + "; ".join(f"{name} {reason}" for name, reason in native.items())
        )
    fused = {
        f"{use['layer']}.attention"
        for source in taken.get("attention_block", ())
        for use in source.uses
    }
    nodes = [
        node for op, sources in taken.items() for s in sources for node in _nodes(op, s, fused)
    ]
    return Plan(precision, tuple(nodes), native, kernels)


def _why(op: str, refused: Sequence[str], network: object) -> str:
    if refused:
        return "; ".join(dict.fromkeys(refused))
    limits = OPS[op].limits
    if limits.channels:
        widths = " or ".join(map(str, limits.channels))
        return f"its kernel takes {widths} channels, which no block of this network has"
    return "the network has none"


def _nodes(op: str, source: KernelSource, fused: set[str]) -> list[PluginNode]:
    """Return the plugins of one kernel: one for each size."""
    found: dict[tuple[int, ...], list[str]] = {}
    for use in source.uses:
        if op == "window_attention" and use["layer"] in fused:
            continue
        sizes = tuple(int(value) for key, value in use.items() if key != "layer")
        found.setdefault(sizes, []).append(str(use["layer"]))
    names = [key for key in source.uses[0] if key != "layer"]
    return [
        PluginNode(
            name=f"{source.name}_{'x'.join(map(str, sizes))}",
            op=op,
            source=source,
            layers=tuple(layers),
            sizes=dict(zip(names, sizes, strict=True)),
        )
        for sizes, layers in found.items()
    ]


def check_precisions(ops: Sequence[str], precisions: Sequence[str]) -> None:
    """Check that graphs of these precisions can have these plugins, before anything is made.

    Args:
        ops: that were asked for by name.
        precisions: of the engines.

    Raises:
        InputError: a precision has no plugins, or a kernel is not written for its type.
    """
    for precision in precisions:
        row = PRECISIONS[precision]
        if not PRECISIONS[row.graph].exported:
            raise InputError(
                f"`plugins`: {precision} graphs are made from quantised layers, which the kernels "
                "do not have; leave them out, or export fp16"
            )
        for op in ops:
            known = OPS[op].limits.dtypes
            if row.torch_dtype not in known:
                raise InputError(
                    f"plugins={op}: its kernel takes {' or '.join(known)}, not {precision}; leave "
                    "it out, or export another precision"
                )
