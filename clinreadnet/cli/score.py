"""`clinreadnet score`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from clinreadnet.cli.common import print_json
from clinreadnet.cli.options import (
    Backends,
    Budget,
    Bundle,
    Device,
    Fastest,
    GraphPrecision,
    Json,
    NotBefore,
    Resample,
    SlicePaths,
    TrustedKeys,
)
from clinreadnet.console import Output, note, progress_bar, status
from clinreadnet.errors import CheckFailed, ClinReadNetError, InputError, origin, os_error_line
from clinreadnet.files import STDOUT, check_distinct, check_output, check_output_folder


def score(
    paths: SlicePaths,
    bundle: Bundle = None,
    resample: Resample = False,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="Also write the scores to this file. `-` is standard output, without the table."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Also plot the scores along z and the worst and best slice (.png, .pdf, .svg)."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write a page to look at the slices, in one file (.html)."),
    ] = None,
    challenge_output: Annotated[
        Path | None,
        typer.Option(help="Also write image-quality-scores.json into this folder."),
    ] = None,
    sr: Annotated[
        Path | None,
        typer.Option(
            help="Also write a DICOM structured report of each series into this new folder."
        ),
    ] = None,
    map: Annotated[
        Path | None,
        typer.Option(help="Also write a DICOM parametric map of each series into this new folder."),
    ] = None,
    secondary_capture: Annotated[
        Path | None,
        typer.Option(
            help="Also write each slice under its map, as DICOM secondary captures, into this new "
            "folder."
        ),
    ] = None,
    backends: Backends = None,
    device: Device = 0,
    fastest: Fastest = False,
    budget: Budget = None,
    trusted_keys: TrustedKeys = None,
    not_before: NotBefore = None,
    precision: GraphPrecision = None,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Leave damaged slices out, name them and exit with 1."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Score slices from 0 (bad) to 4 (excellent). No reference image is needed.

    Folders are searched recursively. Localisers and files that are not CT slices are skipped with a
    note. A file that you name must be a CT slice. Several series get a mean each. A damaged slice
    ends the command with exit status 2 and no scores. An output that cannot be written costs no
    scores: they come first, and a line says why. Research use only.

    Examples:
    - `clinreadnet score series/`
    - `clinreadnet score series/ --bundle bundle --csv scores.csv --plot scores.png`
    - `clinreadnet score 0000.tif 0001.tif --json`
    - `clinreadnet score stack.mha --challenge-output output`
    - `clinreadnet score series/ --html series.html --fastest --budget 2e-2`
    - `clinreadnet score series/ --sr reports --map maps --secondary-capture captures`
    - `clinreadnet score series/ --trusted-key vendor.pub.pem --backend onnxruntime-cpu`
    """
    from clinreadnet.data.slices import find_slices
    from clinreadnet.runtime import BACKENDS, Session
    from clinreadnet.runtime.bundle.default import default_bundle
    from clinreadnet.scoring import series as scoring
    from clinreadnet.scoring.plot import check_plot, write_plot
    from clinreadnet.scoring.table import print_report
    from clinreadnet.scoring.viewer import check_html, write_html

    bundle = bundle or default_bundle()
    scoring.check_bundle(bundle)
    if csv is not None and str(csv) == STDOUT and as_json:
        raise InputError("`csv` and `as_json` both write to standard output; give one of them")
    scores_file = None if challenge_output is None else challenge_output / scoring.CHALLENGE_FILE
    check_distinct(
        {
            "csv": csv,
            "plot": plot,
            "html": html,
            "challenge_output": scores_file,
            "sr": sr,
            "map": map,
            "secondary_capture": secondary_capture,
        }
    )
    outputs = [target for target in (csv, plot, html) if target is not None]
    for target in outputs:
        check_output(target)
    if plot is not None:
        check_plot(plot)
    if challenge_output is not None and scores_file is not None:
        scoring.check_challenge_output(challenge_output)
        outputs.append(scores_file)
    objects = [folder for folder in (sr, map, secondary_capture) if folder is not None]
    if objects:
        from clinreadnet.dicom import quality_map, sources, structured_report
    for folder in objects:
        check_output_folder(folder, force=None)
    left_out = 0

    def leave_out(where: object, error: InputError) -> None:
        nonlocal left_out
        left_out += 1
        note(f"left out: {error}")

    go_on = leave_out if keep_going else None
    with status("Reading headers"):
        keep = sources.SOURCE_TAGS if objects else ()
        refs = find_slices(paths, resample=resample, keep=keep, note=note, refused=go_on)
    inputs = [*{ref.path for ref in refs}, *bundle.iterdir(), *(trusted_keys or ())]
    for target in outputs:
        check_output(target, inputs=inputs)
    if html is not None:
        check_html(len(refs))
    # What the headers do not allow costs no scores.
    failures: list[OSError | ClinReadNetError] = []
    headers: sources.Sources = {}
    if objects:
        try:
            headers = sources.make_sources(refs)
        except InputError as error:
            failures.append(CheckFailed(f"no DICOM object is written; {error.full}"))
            sr = map = secondary_capture = None
    if map is not None:
        try:
            quality_map.check_geometry(refs, headers)
        except InputError as error:
            failures.append(CheckFailed(f"no map is written; {error.full}"))
            map = None
    with status("Loading the bundle"):
        session = Session(
            bundle,
            backends or BACKENDS,
            precision,
            device=device,
            fastest=fastest,
            budget=budget,
            trusted_keys=trusted_keys or None,
            not_before=not_before,
        )
    if session.verdict.reason:
        note(f"{session.backend}: {session.verdict.reason}")
    with session, progress_bar() as bar:
        task = bar.add_task("Scoring", total=len(refs))
        report = scoring.score_slices(
            session, refs, advance=lambda n: bar.advance(task, n), left_out=go_on, note=note
        )
    # The scores come first: nothing that a writer does may cost them.
    if csv is not None:
        _attempt(scoring.write_csv, report, csv, failures)
    try:
        if as_json:
            print_json(report.to_dict(session))
        elif csv is None or str(csv) != STDOUT:
            print_report(report, Output(), session.describe())
    except OSError as failure:
        failures.append(failure)
    writers: list[tuple[Path | None, Callable[[scoring.SeriesReport, Path], None]]] = [
        (plot, write_plot),
        (html, write_html),
        (challenge_output, scoring.write_challenge_output),
    ]
    if objects:
        facts = session.describe()
        for target_folder, write_objects in (
            (sr, structured_report.write_reports),
            (map, quality_map.write_maps),
            (secondary_capture, quality_map.write_captures),
        ):
            writers.append((target_folder, partial(_write_objects, write_objects, headers, facts)))
    for place, write in writers:
        if place is not None:
            _attempt(write, report, place, failures)
    for other in failures[1:]:
        note(f"clinreadnet: {other}")
    if failures:
        raise failures[0]
    if left_out:
        raise CheckFailed(
            f"{left_out} damaged and left out, {len(report.slices)} scored; the lines above say why"
        )


def _attempt(
    write: Callable[[Any, Path], None],
    report: Any,
    place: Path,
    failures: list[OSError | ClinReadNetError],
) -> None:
    """Write an output; whatever goes wrong becomes a failure with one line and exit status 1."""
    try:
        write(report, place)
    except BrokenPipeError as failure:
        failures.append(failure)
    except OSError as failure:
        failures.append(CheckFailed(os_error_line(failure)))
    except ClinReadNetError as failure:
        failures.append(CheckFailed(failure.full))
    except Exception as error:  # of a library: its message may repeat a header
        failures.append(
            CheckFailed(f"{place}: not written ({origin(error)}); the scores are complete")
        )


def _write_objects(
    write: Callable[..., None], headers: Any, facts: dict[str, Any], report: Any, folder: Path
) -> None:
    write(report, headers, facts, folder)
