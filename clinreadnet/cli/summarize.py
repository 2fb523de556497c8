"""`clinreadnet summarize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import print_result, write_each
from clinreadnet.cli.options import Json, LimitsFile
from clinreadnet.console import progress
from clinreadnet.files import check_output


def summarize(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILES", help="Files of score-archive, score --csv or --json."),
    ],
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="scanner|protocol|kernel",
            help="What makes the groups; repeatable. Default: scanner and protocol.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Also plot quality against CTDIvol, and the control charts (.png, .pdf, .svg)."
        ),
    ] = None,
    limits: LimitsFile = None,
    ecqm: Annotated[
        bool,
        typer.Option(
            "--ecqm",
            help="With --limits: also show size-adjusted dose and noise by category of CT, as "
            "CMS 1056, 1074 and 1206 ask for.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Summarise scores by scanner and protocol: quality, dose and drift over time.

    A series counts once, with the mean of its slices. Slices that are marked as novel are left out
    and counted. Intervals are 95 % confidence intervals of the mean, from 5 series on. Drift is a
    control chart of the means of days, from 10 days on; days that a rule of Western Electric marks
    are named. With limits, the exit status is 4 if a series exceeds one. Research use only.

    Examples:
    - `clinreadnet summarize scores.parquet --by protocol`
    - `clinreadnet summarize scores.csv --by scanner --by kernel --json`
    - `clinreadnet summarize scores.parquet --plot summary.png`
    - `clinreadnet summarize figures.csv --limits limits.toml`
    - `clinreadnet summarize figures.csv --limits ecqm.toml --ecqm`
    """
    from clinreadnet.scoring.plot import check_plot
    from clinreadnet.scoring.protocol_limits import read_protocol_limits
    from clinreadnet.scoring.summary import GROUPINGS
    from clinreadnet.scoring.summary import summarize as summarize_files
    from clinreadnet.scoring.summary_plot import write_summary_plot
    from clinreadnet.scoring.summary_table import print_summary

    if plot is not None:
        check_output(plot, inputs=[*paths, *([] if limits is None else [limits])])
        check_plot(plot)
    site_limits = None if limits is None else read_protocol_limits(limits)
    with progress("Reading") as advance:
        summary = summarize_files(
            paths, by or GROUPINGS[:2], limits=site_limits, ecqm=ecqm, advance=advance
        )

    def draw() -> None:
        if plot is not None:
            write_summary_plot(summary, plot)

    write_each(lambda: print_result(summary, as_json, print_summary), draw)
    if summary.limits is not None:
        summary.limits.check()
