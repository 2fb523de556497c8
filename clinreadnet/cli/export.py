"""`clinreadnet export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import print_result
from clinreadnet.cli.options import Checkpoint, Force, Json, NewFolder, WantedPreset
from clinreadnet.console import note, status, step
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.files import check_output_folder
from clinreadnet.precision import (
    DEFAULT_ENGINE_PRECISION,
    DEFAULT_PRECISIONS,
    PRECISIONS,
    lowered_precisions,
    spelled,
)

_ENGINES_ONLY = spelled([row.name for row in PRECISIONS.values() if not row.has_graph])
_KNOWN = [
    row.name if row.has_graph else f"{row.name} (engines only)" for row in PRECISIONS.values()
]


@dataclass(frozen=True)
class EngineOptions:
    """Settings of `clinreadnet.export.engines.options.BuildOptions`."""

    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Build engines that later releases load too."),
    ] = False
    hardware_compatible: Annotated[
        bool,
        typer.Option("--hardware-compatible", help="Build engines for every GPU since Ampere."),
    ] = False
    strip_weights: Annotated[
        bool,
        typer.Option("--strip-weights", help="Leave the weights out; the runtime refits them."),
    ] = False
    timing_cache: Annotated[
        Path | None, typer.Option(help="File of kernel timings to read and update.")
    ] = None
    optimization_level: Annotated[
        int | None, typer.Option(help="0 (fast build) to 5 (fast engine).")
    ] = None
    workspace_mib: Annotated[
        int | None,
        typer.Option("--workspace", metavar="MIB", help="Limit of the engines' scratch memory."),
    ] = None
    platform: Annotated[
        str | None,
        typer.Option(help="windows: engines for Windows. Default: this operating system."),
    ] = None


def export(
    out: NewFolder,
    *,
    checkpoint: Checkpoint = None,
    preset: WantedPreset = "small",
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            help=f"{spelled(_KNOWN)}; repeatable. Default: {spelled(DEFAULT_PRECISIONS, 'and')}.",
        ),
    ] = None,
    fp32_islands: Annotated[
        str,
        typer.Option(
            metavar="default|auto",
            help=f"What stays float32 in {spelled(lowered_precisions(), 'and')} graphs: the "
            "network's own islands, or the smallest set of operators that keeps the parity budget.",
        ),
    ] = "default",
    fused_attention: Annotated[
        bool,
        typer.Option(
            "--fused-attention",
            help="Write the attention in the form that TensorRT fuses, in "
            f"{spelled(lowered_precisions(), 'and')} graphs.",
        ),
    ] = False,
    flavour: Annotated[
        str, typer.Option(help="TensorRT that builds the engines: tensorrt-rtx or tensorrt.")
    ] = "tensorrt-rtx",
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            help="GPU architecture to build an engine for, or `current`; repeatable. Default: "
            "sm86, sm89 and sm120 for tensorrt-rtx, `current` for tensorrt.",
        ),
    ] = None,
    engine_precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--engine-precision",
            help="Precision of the engines; repeatable. Default: "
            f"{DEFAULT_ENGINE_PRECISION}, and {_ENGINES_ONLY} if requested.",
        ),
    ] = None,
    engines: Annotated[bool, typer.Option(help="Build TensorRT engines.")] = True,
    batch: Annotated[
        str, typer.Option(metavar="MIN:OPT:MAX", help="Batch sizes to accept and to tune for.")
    ] = "1:4:16",
    build_options: EngineOptions,
    plugins: Annotated[
        str,
        typer.Option(
            metavar="OPS",
            help="Ops whose kernels run inside the engines of tensorrt: sobel_stem, "
            "window_attention, attention_block, mlp; or all.",
        ),
    ] = "none",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a verified bundle: ONNX graphs, TensorRT engines, golden slices and a manifest.

    TensorRT-RTX builds without a GPU. TensorRT builds on the GPU that the engine is for. Exit
    status 1: an artifact failed its check; the bundle is written and marked as not verified.

    Examples:
    - `clinreadnet export --out bundle`
    - `clinreadnet export --out bundle --checkpoint run/model.safetensors --target sm89`
    - `clinreadnet export --out bundle --flavour tensorrt --target current --version-compatible`
    - `clinreadnet export --out bundle --precision fp32 --precision int8 --no-engines --force`
    - `clinreadnet export --out bundle --flavour tensorrt --no-engines --plugins all --force`
    """
    if fp32_islands not in ("default", "auto"):
        raise InputError(f"--fp32-islands {fp32_islands}: give default or auto")
    check_output_folder(out, force=force)
    with status("Importing PyTorch"):
        from clinreadnet.export.bundle import export_bundle
        from clinreadnet.export.engines.options import BuildOptions, parse_batch
        from clinreadnet.export.plugins.request import parse_plugins
        from clinreadnet.export.request import EngineRequest, GraphRequest
        from clinreadnet.verify.report import print_report

    report = export_bundle(
        out,
        checkpoint=checkpoint,
        preset=preset,
        graphs=GraphRequest(
            precisions=precisions or DEFAULT_PRECISIONS,
            batch=parse_batch(batch),
            auto_islands=fp32_islands == "auto",
            fused_attention=fused_attention,
        ),
        engines=EngineRequest(
            flavour=flavour,
            targets=(targets or None) if engines else (),
            precisions=engine_precisions or None,
            options=BuildOptions(**vars(build_options)),
            plugins=parse_plugins(plugins),
        ),
        force=force,
        note=lambda line: note(f"clinreadnet: {line}"),
        step=lambda line: step(f"clinreadnet: {line}"),
    )
    print_result(report, as_json, print_report, markup=True)
    if not report.passed:
        raise CheckFailed(f"{out}: not verified, do not deploy it; the checks above say why")
