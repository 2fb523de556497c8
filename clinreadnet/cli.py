"""The `clinreadnet` command. Each command is a thin door to one module.

Results go to standard output; progress, notes and errors go to standard error. Exit status: 0 fine,
1 a check failed, 2 bad usage or bad input.
"""

from __future__ import annotations

import json
import math
import os
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
    "safetensors": "export",
    "scipy": "simulate",
    "torch": "export",
    "triton": "kernels",
}

# Spellings shared by every command.
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
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
    bf16: Annotated[bool, typer.Option("--bf16", help="Products in bfloat16.")] = False,
    validation_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the anatomies held out.")
    ] = 0.1,
    limit_minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Finish the schedule within this time.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint to start from instead of random weights.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, split, order and crops.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
) -> None:
    """Train a network on labelled slices; whole anatomies are held out for validation.

    Writes `log.csv`, `last.pt` (for --resume) and, at the end, `model.safetensors`.

    Example: `clinreadnet train --data slices --out run --preset small --epochs 30`
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
        limit_minutes=limit_minutes,
        init=None if init is None else str(init),
    )
    print(run(data, out, config, resume=resume))


@app.command()
def evaluate(
    data: Annotated[
        Path, typer.Option(help="LDCTIQA folder of labelled slices.", show_default=False)
    ],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint; default the shipped one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure PLCC, SROCC and KROCC of the reference network against labels.

    Intervals are 95 % bootstrap intervals over slices.

    Example: `clinreadnet evaluate --data LDCTIQAG2023_test --json`
    """
    from clinreadnet.evaluate import evaluate as measure
    from clinreadnet.evaluate import table

    result = measure(data, checkpoint)
    if as_json:
        print_json(result)
    else:
        Console().print(table(result))


@app.command()
def score(
    paths: Annotated[
        list[Path],
        typer.Argument(help="DICOM, LDCTIQA .tif or .npy (HU) files, or folders of them."),
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
    as_json: Json = False,
) -> None:
    """Score slices, 0 (bad) to 4 (excellent), with no reference image.

    A folder is searched with its sub-folders; localisers and files that are no CT slice are left
    out with a note. A file that is named must be a CT slice. Research use only.

    Examples:
    - `clinreadnet score series/`
    - `clinreadnet score series/ --bundle bundle --csv scores.csv --plot scores.png`
    - `clinreadnet score 0000.tif 0001.tif --json`
    - `clinreadnet score series/ --trusted-key vendor.pub.pem --backend onnxruntime-cpu`
    """
    from clinreadnet import score as scoring
    from clinreadnet.data.slices import find_slices
    from clinreadnet.plot import check_plot, write_plot
    from clinreadnet.progress import console, progress_bar
    from clinreadnet.runtime import BACKENDS, Session

    bundle = bundle or scoring.default_bundle()
    scoring.check_bundle(bundle)
    for target in (csv, plot):
        if target is not None:
            scoring.check_target(target)
    if plot is not None:
        check_plot(plot)
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
    if as_json:
        print_json(report.to_dict(session))
    else:
        scoring.print_report(report, Console())


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
    count: Annotated[int, typer.Option(min=1, help="Number of slices.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    dicom: Annotated[
        bool,
        typer.Option("--dicom", help="Write one patient's CT series instead of labelled images."),
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; one per processor where not given.")
    ] = None,
    force: Force = False,
) -> None:
    """Simulate low-dose abdominal slices, labelled by simulated readers.

    Writes an LDCTIQA folder: image/0000.tif ..., train.json and simulation.json. Twelve slices
    show one anatomy: four noise levels times three view counts. Simulated, research use only.

    Examples:
    - `clinreadnet simulate --out data --count 1200 --seed 1`
    - `clinreadnet simulate --out series --count 24 --seed 1 --dicom`
    """
    from clinreadnet.data.simulate import simulate_folder, simulate_series

    write = simulate_series if dicom else simulate_folder
    write(out, count, seed, jobs=jobs or os.cpu_count() or 1, force=force)
    what = "slices of a CT series" if dicom else "labelled slices"
    print(f"{out}: {count} {what}", file=sys.stderr)


_KERNEL_OPTIONS = {"out", "kernels", "preset", "precision", "target", "force", "as_json"}
"""Options of `export` that go with --kernels."""


def _export_kernels(context: typer.Context, as_json: bool, **arguments: Any) -> None:
    """The part of `export` that compiles kernels ahead of time."""
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        given = source is not None and source.name == "COMMANDLINE"
        if given and option.name not in _KERNEL_OPTIONS:
            raise InputError(f"{option.opts[0]} and --kernels exclude each other")
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


@app.command()
def export(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder to create.", show_default=False)],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint; default the shipped one.")
    ] = None,
    preset: Annotated[str, typer.Option(help="What the checkpoint must be.")] = "small",
    precision: Annotated[
        list[str] | None,
        typer.Option(help="Precision of an ONNX graph, repeatable; default fp32 and fp16."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="GPU architecture to build a TensorRT-RTX engine for, repeatable; "
            "default sm86, sm89 and sm120."
        ),
    ] = None,
    engine_precision: Annotated[
        list[str] | None, typer.Option(help="Precision of the engines, repeatable; default fp16.")
    ] = None,
    engines: Annotated[bool, typer.Option(help="Build TensorRT-RTX engines.")] = True,
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
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a verified bundle: ONNX graphs, TensorRT-RTX engines, golden slices, manifest.

    With --kernels: the network's kernels and `kernels.json`, for a host that launches them itself.

    No GPU is needed. Exit status 1: an artifact failed its check; the bundle is written all the
    same, marked as not verified.

    Examples:
    - `clinreadnet export --out bundle`
    - `clinreadnet export --out bundle --checkpoint run/model.safetensors --target sm89`
    - `clinreadnet export --out bundle --no-engines --force`
    - `clinreadnet export --out kernels --kernels cubin --target sm80 --target sm90`
    """
    if kernels:
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
    try:
        from clinreadnet.export.bundle import DEFAULT_PRECISIONS, export_bundle, parse_batch
    except ModuleNotFoundError as error:
        raise InputError(
            f'export needs {error.name}; run `pip install "clinreadnet[cpu,export]"`'
        ) from None
    from clinreadnet.export.verify import print_report

    report = export_bundle(
        out,
        checkpoint=checkpoint,
        preset=preset,
        precisions=precision or DEFAULT_PRECISIONS,
        targets=(target or None) if engines else (),
        engine_precisions=engine_precision or None,
        batch=parse_batch(batch),
        force=force,
        note=lambda line: print(f"clinreadnet: {line}", file=sys.stderr),
    )
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report, Console())
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
    as_json: Json = False,
) -> None:
    """Check every artifact's hash, its error against the float64 reference, and its metrics.

    Exit status 1: a check failed, saying which. Engines that this machine cannot run are listed as
    not run.

    Examples:
    - `clinreadnet verify bundle`
    - `clinreadnet verify bundle --data LDCTIQAG2023_test --json`
    """
    from clinreadnet.data.ldctiqa import read_ldctiqa
    from clinreadnet.export.verify import passes, print_report, verify_folder, verify_golden
    from clinreadnet.progress import progress_bar
    from clinreadnet.runtime.manifest import load_manifest

    if checkpoint is not None and data is None:
        raise InputError("--checkpoint goes with --data")
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
