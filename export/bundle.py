"""`clinreadnet export`: make a verified bundle folder from a checkpoint."""

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
from clinreadnet.errors import InputError
from clinreadnet.export.engines.build import EngineBuilder
from clinreadnet.export.engines.options import (
    DEFAULT_BATCH,
    DEFAULT_TARGETS,
    PLATFORMS,
    BuildOptions,
    check_batch,
    check_options,
    resolve_targets,
)
from clinreadnet.export.golden import known_reference, write_golden
from clinreadnet.export.onnx.export import check_network
from clinreadnet.export.onnx.graphs import Graphs
from clinreadnet.export.onnx.quantization import load_dynamic_quantizer, load_optimizer
from clinreadnet.export.plugins.request import PORTABLE, check_request
from clinreadnet.files import check_output_folder, whole_folder
from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path
from clinreadnet.model.network import ClinReadNet
from clinreadnet.precision import (
    CHECKPOINT_PRECISIONS,
    DEFAULT_ENGINE_PRECISION,
    DEFAULT_PRECISIONS,
    PRECISIONS,
    find_precision,
    quantized_precisions,
    spelled,
)
from clinreadnet.runtime.backends.flavours import FlavourMissing, load_flavour, newest
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
from clinreadnet.runtime.bundle.plugins import Plugins
from clinreadnet.runtime.verdict import current_platform
from clinreadnet.verify.pages import write_pages
from clinreadnet.verify.record import fresh
from clinreadnet.verify.report import VerifyReport
from clinreadnet.verify.run import steps, verify_golden

if TYPE_CHECKING:  # needs Triton, which is only required for plugins
    from clinreadnet.export.plugins.plan import Plan
    from clinreadnet.export.plugins.register import GraphPlugins


def parse_batch(text: str) -> BatchRange:
    """Read a profile ``MIN:OPT:MAX``.

    Raises:
        InputError: the text is not three integers 1 <= MIN <= OPT <= MAX within the graph's batch.
    """
    try:
        low, best, high = (int(part) for part in text.split(":"))
    except ValueError:
        raise InputError(f"batch={text}: give MIN:OPT:MAX, such as 1:4:16") from None
    batch = BatchRange(low, best, high)
    check_batch(batch)
    return batch


def export_bundle(
    out: str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    preset: str = "small",
    precisions: Sequence[str] = DEFAULT_PRECISIONS,
    flavour: str = "tensorrt-rtx",
    targets: Sequence[str] | None = None,
    engine_precisions: Sequence[str] | None = None,
    options: BuildOptions | None = None,
    batch: BatchRange = DEFAULT_BATCH,
    auto_islands: bool = False,
    fused_attention: bool = False,
    plugins: Sequence[str] = (),
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
        precisions: precisions of the ONNX graphs. "tf32" is an engine of the float32 graph.
        flavour: flavour of TensorRT that builds the engines.
        targets: architectures of the engines, or "current" for this machine's GPU; can be empty.
            Default: ``DEFAULT_TARGETS`` if TensorRT-RTX is installed.
        engine_precisions: precisions of the engines. Default: fp16 if exported, otherwise all, and
            tf32 if requested.
        options: build options.
        batch: batch sizes of the bundle and profile of the engines.
        auto_islands: search for the nodes of float16 and bfloat16 graphs to keep in float32,
            instead of the network's own islands.
        fused_attention: write the attention of unshifted windows in 16-bit graphs as TensorRT
            fuses it into one kernel.
        plugins: ops whose kernels become plugins of the engines, or "all". A second graph with
            plugin nodes is then written for each engine's graph.
        force: replace ``out`` if it exists.
        note: called with one line for each omitted artifact.
        step: called with one line at the start of each step that takes more than a few seconds.

    Returns:
        The result of the verification; ``bundle`` is ``out``.

    Raises:
        InputError: a precision or target is unknown, the flavour does not support an option, the
            profile is invalid, the checkpoint cannot be used, ``out`` exists without ``force``, or
            ``targets`` are given and the flavour is not installed.
        CheckFailed: all graphs exceed their budgets, the network of an engine has another
            precision, or the driver does not support the PTX of the plugins.
    """
    out, options = Path(out), options or BuildOptions()
    precisions = tuple(dict.fromkeys(precisions))
    engines_alone = [p for p in precisions if not find_precision(p).has_graph]
    check_batch(batch)
    check_options(options, newest(flavour))
    check_request(plugins, newest(flavour), options, auto_islands=auto_islands)
    if fused_attention and auto_islands:
        raise InputError(
            "`fused_attention` and fp32_islands=auto exclude each other: the islands are searched "
            "in the float32 graph"
        )
    engine_precisions = choose_engine_precisions(engine_precisions, precisions)
    if targets is not None and not targets and engines_alone:
        raise InputError(
            f"precisions={engines_alone[0]}: it is a precision of engines, and none are to be built"
        )
    targets = choose_targets(targets, flavour, note)
    if set(quantized_precisions()) & set(precisions):
        load_optimizer()
    if any(PRECISIONS[precision].dynamic for precision in precisions):
        load_dynamic_quantizer()
    checkpoint = Path(checkpoint) if checkpoint is not None else pretrained_path(preset)
    size = 4 * checkpoint.stat().st_size * (1 + len(precisions)) if checkpoint.is_file() else 0
    check_output_folder(out, force=force, inputs=[checkpoint], size=size)
    model = load_checkpoint(checkpoint, preset=preset)
    check_network(model, checkpoint)
    portable = options.hardware_compatible
    plans: list[Plan] = []
    if plugins:  # compile before anything is written
        from clinreadnet.export.plugins.graph import write_plugin_graph
        from clinreadnet.export.plugins.plan import plan_graphs
        from clinreadnet.export.plugins.register import GraphPlugins

        plans = plan_graphs(
            model, plugins, engine_precisions, targets, portable=portable, note=note
        )

    with (
        whole_folder(out, force=force) as folder,
        tempfile.TemporaryDirectory() as scratch,
        progress_bar() as bar,
    ):
        step("simulating golden slices")
        known = known_reference(checkpoint)
        golden = write_golden(folder / GOLDEN_NAME, model, bar, note, known)
        graphs = Graphs(
            model, folder, Path(scratch), golden, batch, auto_islands, fused_attention, bar, note
        )
        step(f"exporting {spelled(precisions, 'and')}")
        artifacts = graphs.write(precisions)
        graph_of = {graph.precision: graph for graph in artifacts}
        plugins_of: dict[str, GraphPlugins] = {}
        for plan in plans:
            graph = write_plugin_graph(model, plan, graph_of[plan.precision], folder)
            graph_of[plan.precision] = graph
            plugins_of[plan.precision] = GraphPlugins(plan, portable=portable)
            artifacts.append(graph)

        if targets:
            wanted = [p for p in engine_precisions if PRECISIONS[p].graph in graph_of]
            task = bar.add_task("Building engines", total=len(targets) * len(wanted))
            for precision in wanted:
                graph = graph_of[PRECISIONS[precision].graph]
                builder = EngineBuilder(
                    folder / graph.file,
                    precision=precision,
                    flavour=flavour,
                    islands=graphs.float32_products(graph),
                    plugins=plugins_of.get(graph.precision),
                )
                step(f"building {precision} engines for {spelled(targets, 'and')}")
                for target in targets:
                    engine = _build(builder, graph, precision, target, batch, options, folder, bar)
                    artifacts.append(engine)
                    bar.advance(task)

        artifacts += _checkpoints(model, checkpoint, folder, batch, note)
        manifest = unverified_manifest(model, checkpoint, batch, artifacts, golden)
        step("verifying every file that runs here")
        task = bar.add_task("Verifying", total=steps(manifest, golden.slices, golden=True))
        report = verify_golden(folder, manifest, lambda n: bar.advance(task, n))
        report = _without_missed(report, note)
        artifacts = [replace(a, records=fresh(replace(a, parity=None))) for a in report.artifacts]
        manifest = replace(manifest, artifacts=tuple(artifacts), verified=report.passed)
        write_manifest(manifest, folder)
        write_pages(folder)
    return replace(report, bundle=out)


def _checkpoints(
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


def _without_missed(report: VerifyReport, note: Callable[[str], None]) -> VerifyReport:
    """Omit the 8-bit checkpoint if it exceeds its budget."""
    kept = []
    for artifact in report.artifacts:
        quantized = artifact.kind == "checkpoint" and PRECISIONS[artifact.precision].quantized
        if quantized and artifact.parity is not None and artifact.parity.status == "failed":
            note(f"no {artifact.title}: {artifact.parity.reason}")
        else:
            kept.append(artifact)
    return replace(report, artifacts=tuple(kept))


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


def _build(
    builder: EngineBuilder,
    graph: Artifact,
    precision: str,
    target: str,
    batch: BatchRange,
    options: BuildOptions,
    folder: Path,
    bar: Progress,
) -> Artifact:
    """Build an engine, write it with its report, and return its entry."""
    plugins = "" if graph.plugins is None else ".plugins"
    file = f"clinreadnet.{precision}{plugins}.{target}{builder.flavour.suffix}"
    engine = builder.build(target, batch, bar, options)
    layers = builder.write(engine, folder / file, target, batch, options)
    report = layers.read_bytes()
    return replace(
        graph,
        file=file,
        kind="tensorrt-engine",
        precision=precision,
        sha256=digest(engine),
        size=len(engine),
        toolchain={builder.flavour.name: builder.version, **graph.toolchain},
        flavour=builder.flavour.name,
        target=target,
        graph=graph.file,
        built_on=replace(
            graph.built_on,
            platform=PLATFORMS.get(options.platform or "", graph.built_on.platform),
        ),
        layers=LayerReport(layers.name, digest(report), len(report)),
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        weights_stripped=options.strip_weights,
        plugins=_plugins(graph, target, portable=options.hardware_compatible),
    )


def _plugins(graph: Artifact, target: str, *, portable: bool) -> Plugins | None:
    """Return the plugins of an engine's entry, from those of its graph."""
    if graph.plugins is None:
        return None
    wanted = PORTABLE if portable else target
    return replace(
        graph.plugins, ptx=tuple(file for file in graph.plugins.ptx if file.target == wanted)
    )


def choose_targets(
    wanted: Sequence[str] | None, flavour: str, note: Callable[[str], None]
) -> tuple[str, ...]:
    """Return the targets to build for; none by default if TensorRT-RTX is not installed."""
    row = newest(flavour)
    default = DEFAULT_TARGETS if row.targets else ("current",)
    targets = resolve_targets(default if wanted is None else wanted, row)
    if targets:
        try:
            load_flavour(flavour)
        except FlavourMissing as error:
            if wanted is not None or flavour != "tensorrt-rtx":
                raise
            note(f"no engines: {error}, then export again")
            return ()
    return targets


def choose_engine_precisions(
    wanted: Sequence[str] | None, exported: Sequence[str]
) -> tuple[str, ...]:
    """Return the precisions of the engines; by default one whose graph is exported.

    Raises:
        InputError: TensorRT cannot build one, or its graph is not exported.
    """
    if wanted is None:
        chosen = [
            p for p in exported if p == DEFAULT_ENGINE_PRECISION or not PRECISIONS[p].has_graph
        ]
        return tuple(chosen or (p for p in exported if not PRECISIONS[p].dynamic))
    for precision in wanted:
        if find_precision(precision).dynamic:
            raise InputError(
                f"engine_precisions={precision}: TensorRT has no layers that find their scales in "
                "each run; build int8, whose scales are calibrated"
            )
        if precision not in exported and find_precision(precision).graph not in exported:
            raise InputError(
                f"engine_precisions={precision}: its graph is not exported; "
                f"add precisions={precision}"
            )
    return tuple(dict.fromkeys(wanted))
