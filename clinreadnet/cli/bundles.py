"""Make bundles, check and sign them: export, verify, sign."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from clinreadnet.cli.common import Force, Json, Plot, print_json
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.precision import (
    DEFAULT_ENGINE_PRECISION,
    DEFAULT_PRECISIONS,
    PRECISIONS,
    lowered_precisions,
    spelled,
)

_ENGINES_ALONE = spelled([row.name for row in PRECISIONS.values() if not row.has_graph])
_KNOWN = [
    row.name if row.has_graph else f"{row.name} (engines alone)" for row in PRECISIONS.values()
]


def export(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder to create.", show_default=False)] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint; default the shipped one.")
    ] = None,
    preset: Annotated[str, typer.Option(help="What the checkpoint must be.")] = "small",
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{spelled(_KNOWN)}, repeatable; default {spelled(DEFAULT_PRECISIONS, 'and')}."
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
    flavour: Annotated[
        str, typer.Option(help="TensorRT that builds the engines: tensorrt-rtx or tensorrt.")
    ] = "tensorrt-rtx",
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="GPU architecture to build an engine for, or `current`, repeatable; default "
            "sm86, sm89 and sm120 for tensorrt-rtx, `current` for tensorrt."
        ),
    ] = None,
    engine_precision: Annotated[
        list[str] | None,
        typer.Option(
            help="Precision of the engines, repeatable; default "
            f"{DEFAULT_ENGINE_PRECISION}, and {_ENGINES_ALONE} if asked."
        ),
    ] = None,
    engines: Annotated[bool, typer.Option(help="Build TensorRT engines.")] = True,
    batch: Annotated[
        str, typer.Option(metavar="MIN:OPT:MAX", help="Batch sizes to accept and to tune for.")
    ] = "1:4:16",
    kernels: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead of a bundle, the Triton kernels compiled for each --target: cubin or "
            "ptx, repeatable."
        ),
    ] = None,
    triton_server: Annotated[
        Path | None,
        typer.Option(
            metavar="REPO",
            help="Triton Inference Server model repository to create: of --out, else of --bundle.",
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="With --triton-server: a bundle that is there; else $CLINREADNET_BUNDLE, "
            "else ./bundle."
        ),
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Engines for later minor releases too.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Engines for every GPU since Ampere.")
    ] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="Engines without weights, refitted at load.")
    ] = False,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File of kernel timings to read and to update.")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(help="0 (fast build) to 5 (fast engine).")
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(metavar="MIB", help="Limit of the engines' scratch memory.")
    ] = None,
    platform: Annotated[
        str | None,
        typer.Option(help="windows: engines for Windows; default this operating system."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Export nothing: say what would block each TensorRT."),
    ] = False,
    graph: Annotated[
        list[Path] | None,
        typer.Option(help="With --check: an ONNX file instead of a checkpoint, repeatable."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a verified bundle: ONNX graphs, TensorRT engines, golden slices, manifest.

    TensorRT-RTX needs no GPU; TensorRT builds on the GPU that the engine is for. Exit status 1: an
    artifact failed its check; the bundle is written all the same, marked as not verified.

    With --kernels: the network's kernels and `kernels.json`, for a host that launches them itself.

    With --triton-server: also a model repository for NVIDIA Triton Inference Server. Without
    --out, nothing is exported and the repository is made of the bundle that is there.

    Examples:
    - `clinreadnet export --out bundle`
    - `clinreadnet export --out bundle --checkpoint run/model.safetensors --target sm89`
    - `clinreadnet export --out bundle --flavour tensorrt --target current --version-compatible`
    - `clinreadnet export --out bundle --precision fp32 --precision int8 --no-engines --force`
    - `clinreadnet export --check --graph bundle/clinreadnet.fp16.onnx`
    - `clinreadnet export --out kernels --kernels cubin --target sm80 --target sm90`
    - `clinreadnet export --triton-server models --bundle bundle`
    """
    if out is None and triton_server is not None:
        _refuse_options(context, _LAYOUT_OPTIONS, "needs --out, the bundle to make with it")
        from clinreadnet.scoring.series import default_bundle

        repository = _write_triton_repository(
            bundle or default_bundle(), triton_server, force, as_json
        )
        if as_json:
            print_json(repository)
        return
    if bundle is not None:
        raise InputError("--bundle goes with --triton-server alone; --out is made, not read")
    if kernels:
        if out is None:
            raise InputError("--kernels needs --out, the folder to make")
        _export_kernels(
            context,
            as_json,
            out=out,
            kinds=kernels,
            targets=target or (),
            preset=preset,
            force=force,
            **({"precisions": precision} if precision else {}),
        )
        return
    if target and not engines:
        raise InputError("--target and --no-engines exclude each other")
    if fp32_islands not in ("default", "auto"):
        raise InputError(f"--fp32-islands {fp32_islands}: give default or auto")
    if (out is None) != check or (graph and not check):
        raise InputError("give --out, or --check with or without --graph, or --triton-server")
    try:
        from clinreadnet.export.bundle import export_bundle, parse_batch
        from clinreadnet.export.engines.options import BuildOptions
    except ModuleNotFoundError as error:
        raise InputError(
            f'export needs {error.name}; run `pip install "clinreadnet[cpu,export]"`'
        ) from None
    precisions = precision or DEFAULT_PRECISIONS
    if out is None:
        _check_graphs(as_json, graph or (), checkpoint, preset=preset, precisions=precisions)
        return
    from clinreadnet.verify.report import print_report

    if triton_server is not None:
        from clinreadnet.export.triton_server import check_repository

        check_repository(triton_server, force=force)
    report = export_bundle(
        out,
        checkpoint=checkpoint,
        preset=preset,
        precisions=precisions,
        flavour=flavour,
        targets=(target or None) if engines else (),
        engine_precisions=engine_precision or None,
        options=BuildOptions(
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
            strip_weights=strip_weights,
            timing_cache=timing_cache,
            optimization_level=optimization_level,
            workspace_mib=workspace,
            platform=platform,
        ),
        batch=parse_batch(batch),
        auto_islands=fp32_islands == "auto",
        force=force,
        note=lambda line: print(f"clinreadnet: {line}", file=sys.stderr),
    )
    result = report.to_dict()
    if not as_json:
        print_report(report, Console())
    if triton_server is not None and report.passed:
        result["triton_server"] = _write_triton_repository(out, triton_server, force, as_json)
    if as_json:
        print_json(result)
    if not report.passed:
        raise CheckFailed(f"{out}: not verified, do not deploy it; the checks above say why")


_KERNEL_OPTIONS = {"out", "kernels", "preset", "precision", "target", "force", "as_json"}
"""Options of `export` that go with --kernels."""


_LAYOUT_OPTIONS = {"triton_server", "bundle", "force", "as_json"}
"""Options of `export` that need no --out: they lay out a bundle that is there."""


def _refuse_options(context: typer.Context, allowed: set[str], reason: str) -> None:
    """Refuse the options on the command line that are not ``allowed``, the first one by name."""
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        if source is not None and source.name == "COMMANDLINE" and option.name not in allowed:
            negated = option.secondary_opts and context.params[str(option.name)] is False
            spelling = (option.secondary_opts if negated else option.opts)[0]
            raise InputError(f"{spelling}: {reason}")


def _export_kernels(context: typer.Context, as_json: bool, **arguments: Any) -> None:
    """The part of `export` that compiles kernels ahead of time."""
    _refuse_options(context, _KERNEL_OPTIONS, "does not go with --kernels")
    try:
        from clinreadnet.export.kernels import export_kernels, print_kernels
    except ModuleNotFoundError as error:
        raise InputError(
            f'export --kernels needs {error.name}; run `pip install "clinreadnet[export,kernels]"`'
        ) from None
    result = export_kernels(**arguments)
    if as_json:
        print_json(result.to_dict())
    else:
        print_kernels(result, Console())


def _check_graphs(as_json: bool, *graphs: Any, **options: Any) -> None:
    """The part of `export` that exports nothing and says what would block each TensorRT."""
    from clinreadnet.export.engines.check import check_graphs, print_findings

    findings = check_graphs(*graphs, **options)
    if as_json:
        print_json({"findings": [finding.to_dict() for finding in findings]})
    else:
        print_findings(findings, Console())
    if any(finding.blockers for finding in findings):
        raise CheckFailed("some graphs cannot be built; the blockers above say why")


def _write_triton_repository(
    bundle: Path, repository: Path, force: bool, as_json: bool
) -> dict[str, Any]:
    """Lay a bundle out for Triton Inference Server; return what ``--json`` prints of it."""
    from clinreadnet.export.triton_server import print_repository, write_repository

    written = write_repository(bundle, repository, force=force)
    for file, reason in written.left_out.items():
        print(f"clinreadnet: {file} left out: {reason}", file=sys.stderr)
    if not as_json:
        print_repository(written, Console())
    return written.to_dict()


def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Option(help="LDCTIQA folder to verify on; default the bundle's golden slices."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="With --data: the bundle's checkpoint; default the shipped one."),
    ] = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Check every artifact's hash, its error against the float64 reference, and its metrics.

    Exit status 1: a check failed, saying which. Engines that this machine cannot run are listed as
    not run.

    Examples:
    - `clinreadnet verify bundle`
    - `clinreadnet verify bundle --data LDCTIQAG2023_test --plot parity.png --json`
    """
    if checkpoint is not None and data is None:
        raise InputError("--checkpoint goes with --data")
    verify_bundle(bundle, data, checkpoint, plot, as_json)


def verify_bundle(
    bundle: Path, data: Path | None, checkpoint: Path | None, plot: Path | None, as_json: bool
) -> None:
    """Verify a bundle and print the report; raise CheckFailed where it did not pass."""
    from clinreadnet.console import progress_bar
    from clinreadnet.data.ldctiqa import read_ldctiqa
    from clinreadnet.runtime.bundle.manifest import load_manifest
    from clinreadnet.scoring.plot import check_plot
    from clinreadnet.scoring.series import check_target
    from clinreadnet.verify.plot import write_parity
    from clinreadnet.verify.report import print_report
    from clinreadnet.verify.run import passes, verify_folder, verify_golden

    if plot is not None:
        check_target(plot)
        check_plot(plot)
    manifest = load_manifest(bundle)
    slices = manifest.golden.slices if data is None else len(read_ldctiqa(data))
    with progress_bar() as bar:
        task = bar.add_task("Verifying", total=slices * passes(manifest, golden=data is None))

        def advance(n: int) -> None:
            bar.advance(task, n)

        if data is None:
            report = verify_golden(bundle, manifest, advance)
        else:
            report = verify_folder(bundle, manifest, data, checkpoint, advance)
    if plot is not None and report.scores:
        write_parity(report.scores, "reference", plot)
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report, Console())
    if not report.passed:
        raise CheckFailed(f"{bundle}: verification failed")


def sign(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)],
    key: Annotated[
        Path,
        typer.Option(help="Ed25519 private key, unencrypted PKCS #8 PEM.", show_default=False),
    ],
) -> None:
    """Sign a bundle: `manifest.sig`, which `score --trusted-key` and `Session` check first.

    Every file is compared with the manifest before. Exporting again removes the signature.

    Examples:
    - `openssl genpkey -algorithm ed25519 -out key.pem`
    - `openssl pkey -in key.pem -pubout -out key.pub.pem`
    - `clinreadnet sign bundle --key key.pem`
    """
    from clinreadnet.runtime.bundle.sign import sign_bundle

    print(sign_bundle(bundle, key))
