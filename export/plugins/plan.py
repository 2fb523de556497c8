"""Decide which layers of a network run as plugins."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.export.engines.check import Blocker, Finding
from clinreadnet.export.kernels import network_shape
from clinreadnet.export.plugins.kernel import Native, PluginKernel, plugin_kernel
from clinreadnet.export.plugins.request import ALL, PORTABLE, plugin_ops
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import KernelSource, NetworkShape
from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path
from clinreadnet.model.network import ClinReadNet, ClinReadNetConfig
from clinreadnet.precision import PRECISIONS, find_precision
from clinreadnet.runtime.backends.flavours import FLAVOURS
from clinreadnet.runtime.bundle.plugins import driver_obstacle
from clinreadnet.runtime.gpu import driver_version, find_gpus


@dataclass(frozen=True)
class PluginNode:
    """Layers that share a plugin: a kernel at a shape.

    Attributes:
        name: name of the plugin and operator of its nodes.
        op: op from `plugin_ops`.
        source: kernel of the network.
        layers: layers of the network, in order.
        sizes: sizes of the launch for a slice, by name.
    """

    name: str
    op: str
    source: KernelSource
    layers: tuple[str, ...]
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """Plan of the plugins of a graph.

    Attributes:
        precision: precision of the graph.
        nodes: plugins.
        native: reason why a kernel is not a plugin, by name.
        kernels: compiled kernels by target and name.
    """

    precision: str
    nodes: tuple[PluginNode, ...]
    native: Mapping[str, str]
    kernels: Mapping[str, Mapping[str, PluginKernel]]

    def layers(self, op: str) -> tuple[str, ...]:
        """Return the layers that run as plugins of an op."""
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

    A kernel is a plugin only if that is possible on every target. `attention_block` takes
    precedence over `window_attention`.

    Args:
        config: hyperparameters of the network.
        ops: ops from `plugin_ops`.
        precision: precision of the graph, one that PyTorch exports.
        targets: architectures of the engines; ``PORTABLE`` if empty.
        named: whether the ops were requested by name, so that each must have a layer.

    Raises:
        InputError: no layer can run as a plugin of a requested op, or of any op.
    """
    network = network_shape(config)
    targets = tuple(targets) or (PORTABLE,)
    native: dict[str, str] = {}
    kernels: dict[str, dict[str, PluginKernel]] = {target: {} for target in targets}
    taken: dict[str, list[KernelSource]] = {}
    for op in (candidate for candidate in plugin_ops() if candidate in ops):
        refused = []
        if op == "sobel_stem" and not config.use_sobel:
            native[op] = "the network was trained without Sobel edges"
            refused.append(native[op])
        for source in plugin_sources(op, network) if not refused else ():
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
            f"`plugins`: no op can be a plugin in {precision}: "
            + "; ".join(f"{name} {reason}" for name, reason in native.items())
        )
    replaced = {
        (OPS[op].instead_of, f"{use['layer']}.attention")
        for op, sources in taken.items()
        for source in sources
        for use in source.uses
    }
    nodes = [
        node
        for op, sources in taken.items()
        for source in sources
        for node in _nodes(op, source, replaced)
    ]
    return Plan(precision, tuple(nodes), native, kernels)


def plugin_sources(op: str, network: NetworkShape) -> Iterator[KernelSource]:
    """Yield the kernels of an op that graphs call."""
    return (source for source in OPS[op].sources(network) if source.plugin)


def _why(op: str, refused: Sequence[str], network: object) -> str:
    if refused:
        return "; ".join(dict.fromkeys(refused))
    limits = OPS[op].limits
    if limits.channels:
        widths = " or ".join(map(str, limits.channels))
        return f"its kernel takes {widths} channels, which no block of this network has"
    return "the network has none"


def _nodes(op: str, source: KernelSource, replaced: set[tuple[str, str]]) -> list[PluginNode]:
    """Return the plugins of a kernel, one for each size."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for use in source.uses:
        if (op, use["layer"]) in replaced:
            continue
        sizes = tuple(int(value) for key, value in use.items() if key != "layer")
        groups.setdefault(sizes, []).append(str(use["layer"]))
    names = [key for key in source.uses[0] if key != "layer"]
    return [
        PluginNode(
            name=f"{source.name}_{'x'.join(map(str, sizes))}",
            op=op,
            source=source,
            layers=tuple(layers),
            sizes=dict(zip(names, sizes, strict=True)),
        )
        for sizes, layers in groups.items()
    ]


def check_precisions(ops: Sequence[str], precisions: Sequence[str]) -> None:
    """Check in advance that graphs of these precisions can have these plugins.

    Args:
        ops: ops that were requested by name.
        precisions: precisions of the engines.

    Raises:
        InputError: a precision does not support plugins, or a kernel does not support its type.
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


def plan_graphs(
    model: ClinReadNet,
    wanted: Sequence[str],
    precisions: Sequence[str],
    targets: Sequence[str],
    note: Callable[[str], None],
) -> list[Plan]:
    """Compile and check the kernels of each graph before anything is written.

    Args:
        model: network.
        wanted: requested ops, or ``ALL``.
        precisions: precisions of the engines. Engines of the same source graph share its plan.
        targets: architectures of the kernels; ``PORTABLE`` if empty.
        note: called with one line for each kernel that is not a plugin.

    Raises:
        InputError: a requested op cannot run any layer.
        CheckFailed: the driver of this machine does not support the PTX.
    """
    named = ALL not in wanted
    ops = tuple(wanted) if named else tuple(plugin_ops())
    check_precisions(ops if named else (), precisions)
    plans = []
    for precision in dict.fromkeys(PRECISIONS[p].graph for p in precisions):
        plan = make_plan(model.config, ops, precision, targets, named=named)
        check_driver(plan)
        for name, reason in plan.native.items():
            note(f"{name} ({precision}) is not a plugin: {reason}")
        plans.append(plan)
    return plans


def check_driver(plan: Plan) -> None:
    """Raise CheckFailed if this machine's driver is too old for a kernel of a plan."""
    driver = driver_version()
    for kernels in plan.kernels.values():
        for name, kernel in kernels.items():
            reason = driver_obstacle(kernel.isa, driver)
            if reason is not None:
                raise CheckFailed(f"`plugins`: {name}: {reason}; install a newer driver")


def check_plugins(
    wanted: Sequence[str],
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    preset: str = "small",
    precisions: Sequence[str],
) -> list[Finding]:
    """Compile kernels for this machine's GPU, otherwise for sm80, and list obstacles.

    Args:
        wanted: requested ops, or ``ALL``.
        checkpoint: checkpoint file; default the shipped one of ``preset``.
        preset: preset that the checkpoint must have.
        precisions: precisions of the graphs, from those that PyTorch exports.

    Raises:
        InputError: Triton is not installed, or PyTorch does not export a precision.
    """
    for precision in precisions:
        if not find_precision(precision).exported:
            raise InputError(f"precisions={precision}: no graph of it has plugins")
    model = load_checkpoint(
        Path(checkpoint) if checkpoint is not None else pretrained_path(preset), preset=preset
    )
    ops = tuple(plugin_ops()) if ALL in wanted else tuple(wanted)
    gpus = find_gpus()
    target = gpus[0].target if gpus else PORTABLE
    network = network_shape(model.config)
    findings = []
    for precision in precisions:
        graph = f"plugins of {precision}"
        blockers = _blockers(ops, network, precision, target)
        for flavour in FLAVOURS:
            judge = f"kernels compiled for {target}"
            if flavour.plugins:
                findings.append(Finding(graph, flavour.title, judge, blockers))
            else:
                note = "takes no plugins; build the graph without them"
                findings.append(Finding(graph, flavour.title, None, note=note))
    return findings


def _blockers(
    ops: Sequence[str], network: NetworkShape, precision: str, target: str
) -> tuple[Blocker, ...]:
    blockers = []
    for op in ops:
        for source in plugin_sources(op, network):
            try:
                kernel = plugin_kernel(OPS[op], source, precision, target)
            except Native as reason:
                blockers.append(Blocker(source.name, op, str(reason)))
                continue
            if obstacle := driver_obstacle(kernel.isa, driver_version()):
                blockers.append(Blocker(source.name, op, obstacle))
    return tuple(blockers)
