"""Tables of `clinreadnet score` and `score-archive`, fitted to the width of the terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from clinreadnet.console import Column, fitted_table, print_lines
from clinreadnet.data.acquisition import exposure_lines
from clinreadnet.data.slices import framed
from clinreadnet.errors import counted, visible
from clinreadnet.physics.table import FIGURES, METHODS, figure_lines
from clinreadnet.scoring.domain import domain_lines, domain_mark
from clinreadnet.scoring.result import SeriesReport, SeriesSummary, summary_line
from clinreadnet.scoring.site_map import site_lines
from clinreadnet.spec import INTERVAL_MASS, RESEARCH_USE

_LEFT_OUT = (1, 2, 3, 6, 8, 8, 7)  # of the columns of FIGURES


def print_report(report: SeriesReport, console: Console, session: Mapping[str, Any]) -> None:
    """Print the slices, the summary, the backend, and the line on research use.

    Args:
        report: scores of some slices.
        console: console to print to.
        session: result of `Session.describe`.
    """
    slices = report.slices
    paths = [os.path.abspath(entry.path) for entry in slices]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = [os.path.relpath(path, folder) for path in paths]
    by_series = report.by_series
    numbers = {series: str(number) for number, series in enumerate(by_series, start=1)}
    several = 1 < len(numbers) < len(slices)
    columns = [
        *([Column("series", [numbers[entry.series] for entry in slices], 2)] if several else []),
        Column("position (mm)", [_number(entry.position, 1) for entry in slices], 4),
        Column("score", [f"{entry.score:.2f}" for entry in slices]),
        Column(
            f"{INTERVAL_MASS:.0%}",
            [f"{entry.low:.1f} ... {entry.high:.1f}" for entry in slices],
            5,
            "left",
        ),
        Column("grade", [entry.grade for entry in slices], 1, "left"),
    ]
    if report.site_map is not None:
        columns.insert(-2, Column("site", [_number(entry.site_score, 2) for entry in slices]))
    measured = any(entry.figures for entry in slices)
    for figure, order in zip(FIGURES, _LEFT_OUT, strict=True):
        cells = [figure.text(entry.figures) for entry in slices]
        if any(cells):
            columns.append(Column(figure.title, cells, order))
    marks = [domain_mark(entry) for entry in slices]
    if any(marks):
        columns.append(Column("domain", marks, justify="left"))
    console.print(
        f"{counted(len(slices), 'slice')} in {visible(folder)}",
        highlight=False,
        style="italic",
        soft_wrap=True,
    )
    shown = [visible(framed(name, entry.frame)) for name, entry in zip(names, slices, strict=True)]
    console.print(fitted_table(console, "slice", shown, columns))
    print_series(by_series, console)
    lines = [*domain_lines(slices), *exposure_lines([entry.acquisition for entry in slices])]
    lines += site_lines(slices, report.site_map)
    lines += figure_lines((entry.figures, entry.remark) for entry in slices)
    if measured:
        lines.append(f"{METHODS}.")
    if report.limits is not None:
        lines += report.limits.lines
    if report.unjudged is not None:
        lines.append(report.unjudged)
    print_lines(console, *lines, scored_by(session), RESEARCH_USE)


def print_series(
    by_series: Mapping[str, SeriesSummary], console: Console, most: int | None = None
) -> None:
    """Print a line for a single series, or a table of several.

    Args:
        by_series: the summary of each series.
        console: console to print to.
        most: rows of the table; default all. A line states the number of omitted rows.
    """
    summaries = list(by_series.values())
    if len(summaries) == 1:
        line = summary_line(summaries[0])
    elif all(summary.n == 1 for summary in summaries):
        line = f"{len(summaries)} series of one slice each"
    else:
        shown = list(by_series.items())[:most]
        columns = [
            Column("slices", [str(summary.n) for _, summary in shown]),
            Column("mean", [_number(summary.mean, 2) for _, summary in shown]),
            Column("lowest", [_number(summary.min, 2) for _, summary in shown], 2),
            Column("highest", [_number(summary.max, 2) for _, summary in shown], 3),
        ]
        if any(summary.site_mean is not None for summary in summaries):
            columns.insert(2, Column("site", [_number(s.site_mean, 2) for _, s in shown]))
        if any(summary.novel for summary in summaries):
            columns.insert(1, Column("novel", [str(summary.novel) for _, summary in shown], 1))
        series = [f"{n}: {visible(name)}" for n, (name, _) in enumerate(shown, start=1)]
        console.print(fitted_table(console, "series", series, columns))
        if len(shown) == len(summaries):
            return
        line = f"and {len(summaries) - len(shown)} more series; --json gives all"
    print_lines(console, line)


def scored_by(session: Mapping[str, Any]) -> str:
    """Return the line with backend, precision and weights."""
    return (
        f"Scored by {session['backend']} in {session['precision']} with weights "
        f"{session['preset']} {session['weights_sha256'][:12]}"
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
