"""`clinreadnet score-archive`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli import options
from clinreadnet.cli.common import check_printed, print_json, session_arguments
from clinreadnet.console import Output, note, print_lines, progress_bar, status
from clinreadnet.errors import CheckFailed, counted
from clinreadnet.files import check_output
from clinreadnet.spec import RESEARCH_USE

_LINES = 50  # series to print; an archive can have thousands


def score_archive(
    paths: options.SlicePaths,
    *,
    out: Annotated[
        Path, typer.Option(help="Parquet file to write (.parquet).", show_default=False)
    ],
    bundle: options.Bundle = None,
    address: Annotated[
        str,
        typer.Option(
            metavar="local|auto|HOST:PORT",
            help="Ray cluster to use; `local` starts Ray on this machine for this run.",
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of sessions. Default: one per GPU, else one per CPU."),
    ] = None,
    resample: options.Resample = False,
    figures: options.Figures = False,
    session_options: options.SessionArguments,
    site: options.SiteFiles,
    as_json: options.Json = False,
) -> None:
    """Score an archive on Ray and write the scores to a Parquet file; print a mean for each series.

    A slice that cannot be read or scored does not stop the others. Its row gives the reason in the
    column `error`, and the exit status is 1. With limits, the exit status is 4 if a series exceeds
    one. Research use only.

    Examples:
    - `clinreadnet score-archive archive/ --out scores.parquet`
    - `clinreadnet score-archive archive/ --out scores.parquet --address head:6379 --workers 8`
    - `clinreadnet score-archive archive/ --out scores.parquet --figures --limits limits.toml`
    """
    with status("Importing Ray"):
        from clinreadnet.scoring.archive import NotWritten
        from clinreadnet.scoring.archive import score_archive as score_all
    from clinreadnet.runtime.bundle.default import find_bundle
    from clinreadnet.runtime.records import CPU_BACKENDS
    from clinreadnet.scoring.table import print_series

    printed = check_printed({"out": out}, as_json)
    rules = site.read(session_options.trusted_keys)
    check_output(out, inputs=site.paths, suffixes=(".parquet",))
    bundle = find_bundle(bundle)
    backends = set(session_options.backends or ())
    failure: NotWritten | None = None
    with progress_bar() as bar:
        task = bar.add_task("Scoring", total=None)
        try:
            report = score_all(
                paths,
                bundle,
                out,
                address=address,
                workers=workers,
                gpu=not backends or not backends <= set(CPU_BACKENDS),
                resample=resample,
                figures=figures,
                session_options=session_arguments(session_options),
                rules=rules,
                note=note,
                advance=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except NotWritten as error:
            report, failure = error.report, error
    if as_json:
        print_json(report.to_dict())
    elif report.by_series and not printed:
        output = Output()
        print_lines(output, "means:" if failure else f"{out}:")
        print_series(report.by_series, output, most=_LINES)
        print_lines(output, *report.notes, RESEARCH_USE)
    if failure is not None:
        raise failure
    if missing := report.not_scored:
        raise CheckFailed(
            f"{out}: {counted(missing, 'slice', report.slices, verb='was')} not scored; "
            "its column `error` says why"
        )
    if report.limits is not None:
        report.limits.check()
