"""The `clinreadnet` command. Each command is a thin door to one module.

Results go to standard output; progress, notes and errors go to standard error. Exit status: 0 fine,
1 a check failed, 2 bad usage or bad input.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from clinreadnet import __version__
from clinreadnet.errors import CheckFailed, ClinReadNetError, InputError
from clinreadnet.grading import RESEARCH_USE

app = typer.Typer(
    name="clinreadnet",
    help=f"""No-reference quality scores (0 bad ... 4 excellent) for low-dose CT slices.

Score slices with a bundle, or make a verified bundle from a checkpoint.

{RESEARCH_USE}
""",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

# What a command needs beyond the bare install, and the extra that brings it.
_EXTRA_OF = {
    "matplotlib": "plot",
    "numba": "simulate",
    "onnx": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "pyarrow": "ray",
    "ray": "ray",
    "safetensors": "export",
    "scipy": "simulate",
    "skimage": "simulate",
    "torch": "export",
    "triton": "kernels",
}

# Spellings shared by every command.
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Bf16 = Annotated[
    bool | None, typer.Option("--bf16/--no-bf16", help="Products in bfloat16; default on GPUs.")
]
Plot = Annotated[
    Path | None,
    typer.Option(help="Also draw each artifact's scores over the reference's (.png, .pdf, .svg)."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the output where it exists.")]


def print_json(result: Mapping[str, Any]) -> None:
    """Print one JSON document on standard output; values that are not finite become null."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: finite(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [finite(inner) for inner in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    print(json.dumps(finite(result), indent=2, allow_nan=False))


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as 90s, 30m or 2h.

    Raises:
        InputError: not of that form, or not more than nothing.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if match is None or not float(match[1]):
        raise InputError(f"{text!r}: not a duration; write 90s, 30m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def train(
    data: Annotated[
        list[Path],
        typer.Option(help="LDCTIQA folder of labelled slices; repeatable.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Run folder to create.", show_default=False)],
    preset: Annotated[str, typer.Option(help="Network: tiny, small or base.")] = "small",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 30,
    batch_size: Annotated[int, typer.Option(min=1, help="Slices a step.")] = 8,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak learning rate.")] = 3e-4,
    crop: Annotated[int, typer.Option(help="Side of random crops: 256 (a quarter) or 512.")] = 512,
    loss: Annotated[str, typer.Option(help="hrps, or cross-entropy to compare with.")] = "hrps",
    bf16: Bf16 = None,
    validation_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the anatomies held out.")
    ] = 0.1,
    patience: Annotated[
        int,
        typer.Option(min=1, help="Epochs without a better validation score to stop after."),
    ] = 20,
    limit_time: Annotated[
        str | None,
        typer.Option(metavar="90s|30m|2h", help="Finish the schedule within this training time."),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint to start from instead of random weights.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of weights, split, order and augmentation.")
    ] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
) -> None:
    """Train a network on labelled slices; whole anatomies are held out for validation.

    Writes `log.csv`, TensorBoard events, `last.pt` (for --resume) and, at the end,
    `model.safetensors`, `summary.json` and `curves.png`. An interrupted run loses no step.

    Examples:
    - `clinreadnet train --data slices --out run --preset small --epochs 30`
    - `clinreadnet train --data LDCTIQAG2023_train --data slices --out run --limit-time 2h`
    - `clinreadnet train --data slices --out run --epochs 30 --resume`
    - `torchrun --nproc-per-node 8 --no-python clinreadnet train --data slices --out run`
    """
    from clinreadnet.train import TrainConfig
    from clinreadnet.train import train as run

    config = TrainConfig(
        preset=preset,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        crop=crop,
        seed=seed,
        bf16=bf16,
        validation_share=validation_share,
        patience=patience,
        limit_seconds=None if limit_time is None else parse_duration(limit_time),
        loss=loss,
        init=None if init is None else str(init),
    )
    checkpoint = run(data, out, config, resume=resume)
    if os.environ.get("RANK", "0") == "0":  # one of the processes of torchrun speaks for all
        print(checkpoint)


@app.command()
def ablate(
    data: Annotated[
        list[Path],
        typer.Option(help="LDCTIQA folder of labelled slices; repeatable.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of the runs and of the table.", show_default=False)
    ],
    test: Annotated[
        Path | None,
        typer.Option(help="LDCTIQA folder to measure on; default the held-out anatomies."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each network.")] = 3,
    preset: Annotated[str, typer.Option(help="Network: tiny, small or base.")] = "small",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 30,
    batch_size: Annotated[int, typer.Option(min=1, help="Slices a step.")] = 8,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak learning rate.")] = 3e-4,
    crop: Annotated[int, typer.Option(help="Side of random crops: 256 (a quarter) or 512.")] = 512,
    validation_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the anatomies held out.")
    ] = 0.1,
    bf16: Bf16 = None,
    limit_time: Annotated[
        str | None, typer.Option(metavar="90s|30m|2h", help="Training time of each run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train otherwise identical networks without Sobel stem, temperatures or HRPS, and compare.

    Writes `ablation.json` and `ablation.md`. Finished runs are kept: give the same command again
    after an interrupt.

    Examples:
    - `clinreadnet ablate --data slices --out ablation --limit-time 1h`
    - `clinreadnet ablate --data slices --test other --out ablation --preset tiny --crop 256`
    """
    from clinreadnet.ablate import ablate as run
    from clinreadnet.ablation_table import markdown
    from clinreadnet.train import TrainConfig

    config = TrainConfig(
        preset=preset,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        crop=crop,
        validation_share=validation_share,
        patience=epochs,
        bf16=bf16,
        limit_seconds=None if limit_time is None else parse_duration(limit_time),
    )
    result = run(data, out, config, seeds, test)
    if as_json:
        print_json(result)
    else:
        print(markdown(result), end="")


@app.command()
def evaluate(
    data: Annotated[
        Path, typer.Option(help="LDCTIQA folder of labelled slices.", show_default=False)
    ],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint; default the shipped one.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Measure each artifact of this bundle too, against the reference."),
    ] = None,
    plot: Plot = None,
    order: Annotated[
        bool,
        typer.Option("--order", help="Compare with the recorded degradations, not the labels."),
    ] = False,
    clean: Annotated[
        list[Path] | None,
        typer.Option(help="With --order: the slices that were degraded; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure PLCC, SROCC and KROCC of the reference network against labels.

    Intervals are 95 % bootstrap intervals over slices. Of a simulated folder the ceiling is shown
    too: what a perfect model of the noiseless quality would score. With --bundle, exit status 1
    means that an artifact is outside its budgets.

    Examples:
    - `clinreadnet evaluate --data LDCTIQAG2023_test --json`
    - `clinreadnet evaluate --data slices --bundle bundle --plot parity.png`
    - `clinreadnet evaluate --data degraded --order --clean series`
    """
    if order and bundle is not None:
        raise InputError("--order and --bundle exclude each other")
    if clean and not order:
        raise InputError("--clean goes with --order")
    if bundle is not None:
        _verify(bundle, data, checkpoint, plot, as_json)
        return
    if plot is not None:
        raise InputError("--plot goes with --bundle")
    from clinreadnet.evaluate import evaluate as measure
    from clinreadnet.evaluate import evaluate_order, order_table, table

    result: Mapping[str, Any]
    if order:
        result = found = evaluate_order(data, checkpoint, clean or ())
        shown = order_table(found)
    else:
        result = metrics = measure(data, checkpoint)
        shown = table(metrics)
    if as_json:
        print_json(result)
    else:
        Console().print(shown)


@app.command()
def score(
    paths: Annotated[
        list[Path],
        typer.Argument(help="DICOM, LDCTIQA .tif, .npy (HU) or .mha files, or folders of them."),
    ],
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle to score with; else $CLINREADNET_BUNDLE, else ./bundle."),
    ] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Resize slices that are not 512x512.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="Also write the scores to this file.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw scores along z, worst and best slice (.png, .pdf, .svg)."),
    ] = None,
    challenge_output: Annotated[
        Path | None,
        typer.Option(help="Also write image-quality-scores.json into this folder."),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="tensorrt, tensorrt-rtx, onnxruntime-cuda or onnxruntime-cpu, repeatable: tried "
            "in turn; all of them by default."
        ),
    ] = None,
    trusted_key: Annotated[
        list[Path] | None,
        typer.Option(help="Public key that must have signed the bundle, repeatable."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Precision of the graph; the most accurate by default.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|local", help="Score an archive on Ray, into --out."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --ray: the Parquet file to write.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="With --ray: sessions; default one for each GPU, else each CPU."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score slices, 0 (bad) to 4 (excellent), with no reference image.

    A folder is searched with its sub-folders; localisers and files that are no CT slice are left
    out with a note. A file that is named must be a CT slice. Research use only.

    With --ray, a slice that cannot be read or scored does not stop the others: its row of --out
    says why, and the exit status is 1.

    Examples:
    - `clinreadnet score series/`
    - `clinreadnet score series/ --bundle bundle --csv scores.csv --plot scores.png`
    - `clinreadnet score 0000.tif 0001.tif --json`
    - `clinreadnet score stack.mha --challenge-output /output`
    - `clinreadnet score archive/ --ray local --out scores.parquet`
    - `clinreadnet score series/ --trusted-key vendor.pub.pem --backend onnxruntime-cpu`
    """
    from clinreadnet import score as scoring
    from clinreadnet.data.slices import find_slices
    from clinreadnet.plot import check_plot, write_plot
    from clinreadnet.progress import console, progress_bar
    from clinreadnet.runtime import BACKENDS, Session

    bundle = bundle or scoring.default_bundle()
    scoring.check_bundle(bundle)
    if ray is not None:
        if out is None or csv is not None or plot is not None:
            raise InputError("--ray writes to --out, a Parquet file, and to no --csv or --plot")
        _score_on_ray(
            paths,
            bundle,
            out,
            as_json,
            address=ray,
            workers=workers,
            gpu=backend != ["onnxruntime-cpu"],
            resample=resample,
            session_options={
                "backends": backend or BACKENDS,
                "precision": precision,
                "trusted_keys": trusted_key or None,
            },
        )
        return
    if out is not None or workers is not None:
        raise InputError("--out and --workers go with --ray; without it, write with --csv")
    for target in (csv, plot):
        if target is not None:
            scoring.check_target(target)
    if plot is not None:
        check_plot(plot)
    if challenge_output is not None:
        scoring.check_challenge_output(challenge_output)
    with console.status("Reading headers"):
        refs = find_slices(paths, resample=resample, note=lambda line: print(line, file=sys.stderr))
    with console.status("Loading the bundle"):
        session = Session(bundle, backend or BACKENDS, precision, trusted_keys=trusted_key or None)
    with session, progress_bar() as bar:
        task = bar.add_task("Scoring", total=len(refs))
        report = scoring.score_slices(session, refs, advance=lambda n: bar.advance(task, n))
    if plot is not None:
        write_plot(report, plot)
    if csv is not None:
        scoring.write_csv(report, csv)
    if challenge_output is not None:
        scoring.write_challenge_output(report, challenge_output)
    if as_json:
        print_json(report.to_dict(session))
    else:
        scoring.print_report(report, Console())


def _score_on_ray(
    paths: list[Path], bundle: Path, out: Path, as_json: bool, **options: Any
) -> None:
    """The part of `score` that hands an archive to a Ray cluster."""
    from clinreadnet.progress import progress_bar
    from clinreadnet.score import summary_line
    from clinreadnet.score_ray import score_archive

    with progress_bar() as bar:
        task = bar.add_task("Scoring", total=None)
        report = score_archive(
            paths,
            bundle,
            out,
            note=lambda line: print(line, file=sys.stderr),
            advance=lambda done, total: bar.update(task, completed=done, total=total),
            **options,
        )
    if as_json:
        print_json(report.to_dict())
    elif report.series is not None:
        print(f"{out}: {summary_line(report.series)}\n{RESEARCH_USE}")
    if report.not_scored:
        raise CheckFailed(
            f"{out}: {report.not_scored} of {report.slices} slices were not scored; "
            "its column `error` says why"
        )


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine can build and run, and how to install what is missing.

    Examples:
    - `clinreadnet doctor`
    - `clinreadnet doctor --json`
    """
    from clinreadnet.doctor import diagnose, print_diagnosis

    diagnosis = diagnose()
    if as_json:
        print_json(diagnosis.to_dict())
    else:
        print_diagnosis(diagnosis, Console())


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Number of slices; default, with --anatomy, all there are."),
    ] = None,
    anatomy: Annotated[
        list[Path] | None,
        typer.Option(help="Own routine-dose DICOM file or folder to degrade, repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    dicom: Annotated[
        bool,
        typer.Option("--dicom", help="Write one patient's CT series instead of labelled images."),
    ] = False,
    preview: Annotated[
        Path | None, typer.Option(help="Contact sheet to draw: .png, .pdf or .svg.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where to project: cpu, cuda, or auto for CUDA where there is any.")
    ] = "cpu",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; one per processor where not given.")
    ] = None,
    force: Force = False,
) -> None:
    """Simulate low-dose abdominal slices, labelled by simulated readers.

    Writes an LDCTIQA folder: image/0000.tif ..., train.json and simulation.json. Sixteen slices
    show one anatomy: four noise levels times three view counts, and four denoised copies.
    Simulated, research use only.

    Examples:
    - `clinreadnet simulate --out data --count 1200 --seed 1 --preview sheet.png`
    - `clinreadnet simulate --out mine --anatomy routine-dose-series`
    - `clinreadnet simulate --out series --count 24 --seed 1 --dicom`
    """
    from clinreadnet.data.preview import check_preview, write_preview
    from clinreadnet.data.simulate import simulate_folder, simulate_series
    from clinreadnet.data.slices import find_slices

    jobs = jobs or os.cpu_count() or 1
    if preview is not None:
        check_preview(preview)
    if dicom:
        if anatomy or preview or count is None:
            raise InputError("--dicom needs --count, and goes with neither --anatomy nor --preview")
        simulate_series(out, count, seed, jobs=jobs, force=force)
        print(f"{out}: {count} slices of a CT series", file=sys.stderr)
        return
    scanned = (
        find_slices(anatomy, note=lambda line: print(line, file=sys.stderr)) if anatomy else []
    )
    scores = simulate_folder(
        out, count, seed, scanned=scanned, device=device, jobs=jobs, force=force
    )
    print(f"{out}: {len(scores)} labelled slices", file=sys.stderr)
    if preview is not None:
        write_preview(out, preview)


_KERNEL_OPTIONS = {"out", "kernels", "preset", "precision", "target", "force", "as_json"}
"""Options of `export` that go with --kernels."""


def _export_kernels(context: typer.Context, as_json: bool, **arguments: Any) -> None:
    """The part of `export` that compiles kernels ahead of time."""
    _refuse_options(context, _KERNEL_OPTIONS, "does not go with --kernels")
    try:
        from clinreadnet.export.cubin import export_kernels, print_kernels
    except ModuleNotFoundError as error:
        raise InputError(
            f'export --kernels needs {error.name}; run `pip install "clinreadnet[export,kernels]"`'
        ) from None
    result = export_kernels(**arguments)
    if as_json:
        print_json(result.to_dict())
    else:
        print_kernels(result, Console())


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


@app.command()
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
            help="fp32, tf32 (engines alone), fp16, bf16, int8 or fp8, repeatable; "
            "default fp32 and fp16."
        ),
    ] = None,
    fp32_islands: Annotated[
        str,
        typer.Option(
            metavar="default|auto",
            help="What stays float32 in fp16 and bf16 graphs: the network's own islands, or the "
            "smallest set of operators that keeps the parity budget.",
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
        typer.Option(help="Precision of the engines, repeatable; default fp16, and tf32 if asked."),
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
        from clinreadnet.score import default_bundle

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
        from clinreadnet.export.options import DEFAULT_PRECISIONS, BuildOptions
    except ModuleNotFoundError as error:
        raise InputError(
            f'export needs {error.name}; run `pip install "clinreadnet[cpu,export]"`'
        ) from None
    precisions = precision or DEFAULT_PRECISIONS
    if out is None:
        from clinreadnet.export.check import check_graphs, print_findings

        findings = check_graphs(graph or (), checkpoint, preset=preset, precisions=precisions)
        if as_json:
            print_json({"findings": [finding.to_dict() for finding in findings]})
        else:
            print_findings(findings, Console())
        if any(finding.blockers for finding in findings):
            raise CheckFailed("some graphs cannot be built; the blockers above say why")
        return
    from clinreadnet.export.verify import print_report

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


@app.command()
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
    _verify(bundle, data, checkpoint, plot, as_json)


def _verify(
    bundle: Path, data: Path | None, checkpoint: Path | None, plot: Path | None, as_json: bool
) -> None:
    """Verify a bundle and print the report; raise CheckFailed where it did not pass."""
    from clinreadnet.data.ldctiqa import read_ldctiqa
    from clinreadnet.export.verify import passes, print_report, verify_folder, verify_golden
    from clinreadnet.plot import check_plot, write_parity
    from clinreadnet.progress import progress_bar
    from clinreadnet.runtime.manifest import load_manifest
    from clinreadnet.score import check_target

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


@app.command()
def tune(
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; default the one that launches on this GPU read."),
    ] = None,
    entry: Annotated[
        list[str] | None,
        typer.Option(help="Op, or part of it, to tune, repeatable; the others are kept."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Time, but write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Time the kernels' launch configurations on this machine's GPU and write the fastest.

    Each candidate must compile without spilling and agree with the float64 reference before it is
    timed. Times are geometric means over the shapes of the network's four stages, batch 8.

    Examples:
    - `clinreadnet tune`
    - `clinreadnet tune --entry sobel_stem --entry window_attention/float16 --dry-run --json`
    - `clinreadnet tune --out nvidia-l4.json`
    """
    if dry_run and out is not None:
        raise InputError("--dry-run and --out exclude each other")
    from clinreadnet.tune import print_tuning, write_tuning
    from clinreadnet.tune import tune as run

    tuning = run(only=entry or ())
    if not dry_run:
        print(f"clinreadnet: wrote {write_tuning(tuning, out)}", file=sys.stderr)
    if as_json:
        print_json(tuning.to_dict())
    else:
        print_tuning(tuning, Console())


@app.command()
def report(
    out: Annotated[
        Path | None, typer.Option(help="HTML page to write.", show_default=False)
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle to deploy; else $CLINREADNET_BUNDLE, else ./bundle."),
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of recorded runs.")] = Path("bench/results"),
    machine: Annotated[
        str | None, typer.Option(help="Only this folder of the results; default all.")
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            help="What accuracy may be lost: bounds on score, error, PLCC, SROCC or KROCC, "
            "joined by commas."
        ),
    ] = "score<=0.02",
    as_json: Json = False,
) -> None:
    """Say which artifact to deploy on each measured machine, and write it as one HTML page.

    Reads the newest recorded run of each machine (`make bench-record`) and the bundle's manifest;
    measures nothing. The page needs no network and no other file.

    Examples:
    - `clinreadnet report --out report.html`
    - `clinreadnet report --budget "score<=0.02,SROCC<=0.001" --json`
    """
    from clinreadnet.report.page import DeploymentReport
    from clinreadnet.score import default_bundle

    made = DeploymentReport(bundle or default_bundle(), results, budget=budget, machine=machine)
    if out is not None:
        made.write(out)
        print(f"clinreadnet: wrote {out}", file=sys.stderr)
    if as_json:
        print_json(made.to_dict())
    else:
        for chosen in made.recommendations:
            print("\n".join(chosen.lines()))


@app.command()
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
    from clinreadnet.runtime.sign import sign_bundle

    print(sign_bundle(bundle, key))


def main() -> None:
    """Run the command line; errors meant for a user become one line and an exit status."""
    try:
        sys.exit(app(standalone_mode=False))
    except ClinReadNetError as error:
        print(f"clinreadnet: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        if message := error.format_message():  # empty where the help was shown instead
            print(f"clinreadnet: {message.rstrip('.')}. See --help.", file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA_OF:
            raise
        print(
            f"clinreadnet: this command needs {error.name}, which is not installed; run "
            f'pip install "clinreadnet[{_EXTRA_OF[error.name]}]"',
            file=sys.stderr,
        )
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("clinreadnet: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
