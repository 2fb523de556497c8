"""`clinreadnet score`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from clinreadnet.cli.common import print_json
from clinreadnet.cli.options import Json
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.spec import RESEARCH_USE


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
    from clinreadnet.console import console, progress_bar
    from clinreadnet.data.slices import find_slices
    from clinreadnet.runtime import BACKENDS, Session
    from clinreadnet.scoring import series as scoring
    from clinreadnet.scoring.plot import check_plot, write_plot

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
    from clinreadnet.console import progress_bar
    from clinreadnet.scoring.archive import score_archive
    from clinreadnet.scoring.series import summary_line

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
