"""The plugin graphs of a bundle with the PTX of their kernels, and their entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import triton

from clinreadnet.errors import CheckFailed
from clinreadnet.export.plugins.engine import GraphPlugins
from clinreadnet.export.plugins.graph import export_plugin_graph
from clinreadnet.export.plugins.names import ALL, PLUGIN_OPS, PORTABLE
from clinreadnet.export.plugins.plan import Plan, check_precisions, make_plan
from clinreadnet.model.network import ClinReadNet
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.bundle.manifest import Artifact, digest
from clinreadnet.runtime.bundle.plugins import PluginNodes, Plugins, PtxFile, driver_obstacle
from clinreadnet.runtime.gpu import driver_version


@dataclass(frozen=True)
class PluginGraph:
    """A plugin graph: the manifest's entry, and what an engine's builder needs."""

    artifact: Artifact
    plugins: GraphPlugins


def plan_graphs(
    model: ClinReadNet,
    wanted: Sequence[str],
    precisions: Sequence[str],
    targets: Sequence[str],
    *,
    portable: bool,
    note: Callable[[str], None],
) -> list[Plan]:
    """Compile the kernels of each graph, and check them, before anything is written.

    Args:
        model: the network.
        wanted: names of ops, or ``ALL``.
        precisions: of the engines; a graph serves all engines that are built from it.
        targets: of the engines.
        portable: whether the engines are for every GPU since Ampere.
        note: called with one line for each kernel that stays TensorRT's own layers.

    Raises:
        InputError: an op that was named can run no layer.
        CheckFailed: the driver of this machine does not know the kernels' PTX.
    """
    named = ALL not in wanted
    ops = tuple(wanted) if named else PLUGIN_OPS
    check_precisions(ops if named else (), precisions)
    plans = []
    for precision in dict.fromkeys(PRECISIONS[p].graph for p in precisions):
        plan = make_plan(
            model.config, ops, precision, (PORTABLE,) if portable else targets, named=named
        )
        _check_driver(plan)
        for name, reason in plan.native.items():
            note(f"{name} ({precision}) is no plugin: {reason}")
        plans.append(plan)
    return plans


def write_graph(
    model: ClinReadNet, plan: Plan, plain: Artifact, folder: Path, *, portable: bool
) -> PluginGraph:
    """Write a plugin graph and its PTX beside the plain graph.

    Args:
        model: the network.
        plan: the plugins.
        plain: entry of the graph without plugins.
        folder: of the bundle.
        portable: whether the engines are for every GPU since Ampere.
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
    artifact = replace(
        plain,
        file=path.name,
        sha256=digest(content),
        size=len(content),
        toolchain=plain.toolchain | {"triton": triton.__version__},
        plugins=plugins,
    )
    return PluginGraph(artifact, GraphPlugins(plan, portable=portable))


def _check_driver(plan: Plan) -> None:
    driver = driver_version()
    for kernels in plan.kernels.values():
        for name, kernel in kernels.items():
            reason = driver_obstacle(kernel.isa, driver)
            if reason is not None:
                raise CheckFailed(f"`plugins`: {name}: {reason}; install a newer driver")
