"""`clinreadnet score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import print_json
from clinreadnet.cli.options import (
    Backends,
    Bundle,
    GraphPrecision,
    Json,
    Resample,
    SlicePaths,
    TrustedKeys,
)
from clinreadnet.console import Output, console, note, progress_bar


def score(
    paths: SlicePaths,
    bundle: Bundle = None,
    resample: Resample = False,
    csv: Annotated[Path | None, typer.Option(help="Also write the scores to this file.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Also plot the scores along z and the worst and best slice (.png, .pdf, .svg)."
        ),
    ] = None,
    challenge_output: Annotated[
        Path | None,
        typer.Option(help="Also write image-quality-scores.json into this folder."),
    ] = None,
    backends: Backends = None,
    trusted_keys: TrustedKeys = None,
    precision: GraphPrecision = None,
    as_json: Json = False,
) -> None:
    """Score slices from 0 (bad) to 4 (excellent). No reference image is needed.

    Folders are searched recursively. Localisers and files that are not CT slices are skipped with a
    note. A file that you name must be a CT slice. Research use only.

    Examples:
    - `clinreadnet score series/`
    - `clinreadnet score series/ --bundle bundle --csv scores.csv --plot scores.png`
    - `clinreadnet score 0000.tif 0001.tif --json`
    - `clinreadnet score stack.mha --challenge-output output`
    - `clinreadnet score series/ --trusted-key vendor.pub.pem --backend onnxruntime-cpu`
    """
    from clinreadnet.data.slices import find_slices
    from clinreadnet.runtime import BACKENDS, Session
    from clinreadnet.scoring import series as scoring
    from clinreadnet.scoring.plot import check_plot, write_plot

    bundle = bundle or scoring.default_bundle()
    scoring.check_bundle(bundle)
    for target in (csv, plot):
        if target is not None:
            scoring.check_target(target)
    if plot is not None:
        check_plot(plot)
    if challenge_output is not None:
        scoring.check_challenge_output(challenge_output)
    with console.status("Reading headers"):
        refs = find_slices(paths, resample=resample, note=note)
    with console.status("Loading the bundle"):
        session = Session(
            bundle, backends or BACKENDS, precision, trusted_keys=trusted_keys or None
        )
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
        scoring.print_report(report, Output())
