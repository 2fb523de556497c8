"""Make a verified bundle folder from a checkpoint: graphs, engines, verification, manifest."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress

from clinreadnet._version import __version__
from clinreadnet.console import progress_bar
from clinreadnet.export.engines.build import EngineBuilder
from clinreadnet.export.engines.options import PLATFORMS, BuildOptions
from clinreadnet.export.golden import known_reference, write_golden
from clinreadnet.export.onnx.export import check_network
from clinreadnet.export.onnx.graphs import Graphs
from clinreadnet.export.plugins.request import PORTABLE
from clinreadnet.export.request import EngineRequest, GraphRequest, check_export
from clinreadnet.files import check_output_folder, whole_folder
from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path
from clinreadnet.model.network import ClinReadNet
from clinreadnet.precision import CHECKPOINT_PRECISIONS, PRECISIONS, spelled
from clinreadnet.runtime.bundle.files import digest, now, write_manifest
from clinreadnet.runtime.bundle.manifest import (
    CHECKPOINT_NAME,
    GOLDEN_NAME,
    Artifact,
    BatchRange,
    BuiltOn,
    Golden,
    InputInfo,
    LayerReport,
    Manifest,
    ModelInfo,
)
from clinreadnet.runtime.verdict import current_platform
from clinreadnet.verify.pages import write_pages
from clinreadnet.verify.record import fresh
from clinreadnet.verify.report import VerifyReport
from clinreadnet.verify.run import steps, verify_golden

if TYPE_CHECKING:  # needs Triton, which is only required for plugins
    from clinreadnet.export.plugins.register import GraphPlugins


def export_bundle(
    out: str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    preset: str = "small",
    graphs: GraphRequest | None = None,
    engines: EngineRequest | None = None,
    force: bool = False,
    note: Callable[[str], None] = lambda line: None,
    step: Callable[[str], None] = lambda line: None,
) -> VerifyReport:
    """Export graphs, build engines, verify them, and write the folder atomically.

    A bundle that fails verification is also written, with ``"verified": false``. An 8-bit graph
    that exceeds its budget is omitted with a note.

    Args:
        out: folder to create.
        checkpoint: checkpoint file; default the shipped one of ``preset``.
        preset: required preset of the checkpoint.
        graphs: the graphs to export; default as in `GraphRequest`.
        engines: the engines to build; default as in `EngineRequest`.
        force: replace ``out`` if it exists.
        note: called with one line for each omitted artifact.
        step: called with one line at the start of each step that takes more than a few seconds.

    Returns:
        The result of the verification; ``bundle`` is ``out``.

    Raises:
        InputError: `check_export` refuses the request, the checkpoint cannot be used, no layer can
            run as a requested plugin, or ``out`` exists without ``force``.
        CheckFailed: all graphs exceed their budgets, the network of an engine has another
            precision, or the driver does not support the PTX of the plugins.
    """
    out = Path(out)
    graphs, engines = check_export(graphs or GraphRequest(), engines or EngineRequest(), note)
    checkpoint = Path(checkpoint) if checkpoint is not None else pretrained_path(preset)
    copies = 1 + len(graphs.precisions)
    size = 4 * checkpoint.stat().st_size * copies if checkpoint.is_file() else 0
    check_output_folder(out, force=force, inputs=[checkpoint], size=size)
    model = load_checkpoint(checkpoint, preset=preset)
    check_network(model, checkpoint)
    plugins = compile_plugins(model, engines, note)

    with (
        whole_folder(out, force=force) as folder,
        tempfile.TemporaryDirectory() as scratch,
        progress_bar() as bar,
    ):
        step("simulating golden slices")
        golden = write_golden(folder / GOLDEN_NAME, model, bar, note, known_reference(checkpoint))

        step(f"exporting {spelled(graphs.precisions, 'and')}")
        writer = Graphs(model, graphs, golden, folder, Path(scratch), bar, note)
        artifacts = writer.write()
        artifacts += write_plugin_graphs(model, plugins, artifacts, folder)

        artifacts += build_engines(writer, artifacts, engines, plugins, bar, step)
        artifacts += copy_checkpoint(model, checkpoint, folder, graphs.batch, note)
        manifest = unverified_manifest(model, checkpoint, graphs.batch, artifacts, golden)

        step("verifying every file that runs here")
        report = verify(folder, manifest, bar, note)
        artifacts = [replace(a, records=fresh(replace(a, parity=None))) for a in report.artifacts]
        manifest = replace(manifest, artifacts=tuple(artifacts), verified=report.passed)
        write_manifest(manifest, folder)
        write_pages(folder)
    return replace(report, bundle=out)


def compile_plugins(
    model: ClinReadNet, engines: EngineRequest, note: Callable[[str], None]
) -> list[GraphPlugins]:
    """Compile the kernels that become plugins, for each graph that engines are built from."""
    if not engines.plugins:
        return []
    from clinreadnet.export.plugins.plan import plan_graphs
    from clinreadnet.export.plugins.register import GraphPlugins

    portable = engines.options.hardware_compatible
    targets = (PORTABLE,) if portable else engines.targets or ()
    plans = plan_graphs(model, engines.plugins, engines.precisions or (), targets, note)
    return [GraphPlugins(plan, portable=portable) for plan in plans]


def write_plugin_graphs(
    model: ClinReadNet, plugins: Sequence[GraphPlugins], plain: Sequence[Artifact], folder: Path
) -> list[Artifact]:
    """Write a graph with plugin nodes beside each plain graph that has plugins."""
    if not plugins:
        return []
    from clinreadnet.export.plugins.graph import write_plugin_graph

    plain_of = {graph.precision: graph for graph in plain}
    return [
        write_plugin_graph(model, plugin.plan, plain_of[plugin.plan.precision], folder)
        for plugin in plugins
    ]


def build_engines(
    writer: Graphs,
    graphs: Sequence[Artifact],
    engines: EngineRequest,
    plugins: Sequence[GraphPlugins],
    bar: Progress,
    step: Callable[[str], None],
) -> list[Artifact]:
    """Build an engine for each precision and target, write it, and return the entries.

    Args:
        writer: writer of the graphs.
        graphs: entries of the graphs. Engines are built from the plugin graph where there is one.
        engines: the engines, with precisions and targets chosen.
        plugins: plugins of the plugin graphs.
        bar: progress display.
        step: called with one line for each precision.
    """
    targets = engines.targets or ()
    # The plugin graph of a precision follows the plain one, and replaces it here.
    graph_of = {graph.precision: graph for graph in graphs}
    plugins_of = {plugin.plan.precision: plugin for plugin in plugins}
    wanted = [p for p in engines.precisions or () if PRECISIONS[p].graph in graph_of]
    if not targets:
        return []
    task = bar.add_task("Building engines", total=len(targets) * len(wanted))
    artifacts = []
    for precision in wanted:
        graph = graph_of[PRECISIONS[precision].graph]
        builder = EngineBuilder(
            writer.folder / graph.file,
            precision=precision,
            flavour=engines.flavour,
            islands=writer.float32_products(graph),
            plugins=plugins_of.get(graph.precision),
        )
        step(f"building {precision} engines for {spelled(targets, 'and')}")
        for target in targets:
            artifacts.append(build_engine(builder, graph, target, engines.options, bar))
            bar.advance(task)
    return artifacts


def build_engine(
    builder: EngineBuilder, graph: Artifact, target: str, options: BuildOptions, bar: Progress
) -> Artifact:
    """Build an engine, write it with its report beside its graph, and return its entry."""
    plugins, ending = graph.plugins, ""
    if plugins is not None:
        compiled = PORTABLE if options.hardware_compatible else target
        plugins = replace(plugins, ptx=tuple(f for f in plugins.ptx if f.target == compiled))
        ending = ".plugins"
    file = f"clinreadnet.{builder.precision}{ending}.{target}{builder.flavour.suffix}"
    engine = builder.build(target, graph.batch, bar, options)
    layers = builder.write(engine, builder.graph.with_name(file), target, graph.batch, options)
    report = layers.read_bytes()
    platform = PLATFORMS.get(options.platform or "", graph.built_on.platform)
    return replace(
        graph,
        file=file,
        kind="tensorrt-engine",
        precision=builder.precision,
        sha256=digest(engine),
        size=len(engine),
        toolchain={builder.flavour.name: builder.version, **graph.toolchain},
        flavour=builder.flavour.name,
        target=target,
        graph=graph.file,
        built_on=replace(graph.built_on, platform=platform),
        layers=LayerReport(layers.name, digest(report), len(report)),
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        weights_stripped=options.strip_weights,
        plugins=plugins,
    )


def copy_checkpoint(
    model: ClinReadNet,
    checkpoint: Path,
    folder: Path,
    batch: BatchRange,
    note: Callable[[str], None],
) -> list[Artifact]:
    """Copy the checkpoint into the bundle; return its entry for each precision."""
    if not (model.config.use_sobel and model.config.use_attention):
        note("no checkpoint for the CPU engine: it runs no network without Sobel or attention")
        return []
    copy = folder / CHECKPOINT_NAME
    copy.write_bytes(checkpoint.read_bytes())
    return checkpoint_artifacts(copy, batch)


def checkpoint_artifacts(checkpoint: Path, batch: BatchRange) -> list[Artifact]:
    """Return the manifest entries of a checkpoint for the CPU engine, one for each precision.

    Args:
        checkpoint: checkpoint file in the bundle's folder.
        batch: batch sizes of the bundle.
    """
    content = checkpoint.read_bytes()
    entry = Artifact(
        file=checkpoint.name,
        kind="checkpoint",
        precision=CHECKPOINT_PRECISIONS[0],
        sha256=digest(content),
        size=len(content),
        batch=batch,
        toolchain={},
        built_on=BuiltOn(current_platform()),
    )
    return [replace(entry, precision=precision) for precision in CHECKPOINT_PRECISIONS]


def unverified_manifest(
    model: ClinReadNet,
    checkpoint: Path,
    batch: BatchRange,
    artifacts: Sequence[Artifact],
    golden: Golden,
) -> Manifest:
    """Return the manifest of a bundle that is not verified yet."""
    threshold = float(model.novelty.threshold)
    return Manifest(
        clinreadnet_version=__version__,
        created=now(),
        model=ModelInfo(
            preset=model.config.preset,
            parameters=sum(p.numel() for p in model.parameters()),
            weights_sha256=digest(checkpoint.read_bytes()),
            novelty_threshold=threshold if math.isfinite(threshold) else None,
        ),
        input=InputInfo(batch),
        artifacts=tuple(artifacts),
        golden=golden,
        verified=False,
    )


def verify(
    folder: Path, manifest: Manifest, bar: Progress, note: Callable[[str], None]
) -> VerifyReport:
    """Verify on the golden slices; omit the 8-bit checkpoint if it exceeds its budget."""
    task = bar.add_task("Verifying", total=steps(manifest, manifest.golden.slices, golden=True))
    report = verify_golden(folder, manifest, lambda n: bar.advance(task, n))
    kept = []
    for artifact in report.artifacts:
        quantized = artifact.kind == "checkpoint" and PRECISIONS[artifact.precision].quantized
        if quantized and artifact.parity is not None and artifact.parity.status == "failed":
            note(f"no {artifact.title}: {artifact.parity.reason}")
        else:
            kept.append(artifact)
    return replace(report, artifacts=tuple(kept))
