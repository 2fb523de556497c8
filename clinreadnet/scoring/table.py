"""Tables of `clinreadnet score` and `score-archive`, fitted to the width of the terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clinreadnet.data.acquisition import exposure_lines
from clinreadnet.errors import visible
from clinreadnet.scoring.domain import domain_lines, domain_mark
from clinreadnet.scoring.result import SeriesReport, SeriesSummary, count_slices, summary_line
from clinreadnet.spec import INTERVAL_MASS, RESEARCH_USE

_NAME = 20
"""Least width of the names' column, before other columns are omitted; longer names fold."""
_FRAME = 3
"""Width of a table column in addition to its text."""


@dataclass(frozen=True)
class _Column:
    """A column of a table.

    Attributes:
        heading: text of its head.
        cells: text of each row.
        leave_out: order in which columns are omitted on a narrow terminal, largest first; 0 stays.
        justify: alignment of the text.
    """

    heading: str
    cells: Sequence[str]
    leave_out: int = 0
    justify: Literal["left", "right"] = "right"

    @property
    def width(self) -> int:
        return max(map(cell_len, (self.heading, *self.cells))) + _FRAME


def _fitted(console: Console, heading: str, names: Sequence[str], columns: list[_Column]) -> Table:
    """Return a table of names and the columns that fit beside them."""
    least = min(max(map(cell_len, (heading, *names))), _NAME)
    for column in sorted((c for c in columns if c.leave_out), key=lambda c: -c.leave_out):
        room = console.width - 1 - _FRAME - sum(c.width for c in columns)
        if room >= least:
            break
        columns = [c for c in columns if c is not column]
    table = Table()
    table.add_column(heading, overflow="fold")
    for column in columns:
        table.add_column(column.heading, justify=column.justify, no_wrap=True)
    for name, *cells in zip(names, *(column.cells for column in columns), strict=True):
        table.add_row(Text(name), *map(Text, cells))
    return table


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
        *([_Column("series", [numbers[entry.series] for entry in slices], 2)] if several else []),
        _Column("position (mm)", [_number(entry.position, 1) for entry in slices], 4),
        _Column("score", [f"{entry.score:.2f}" for entry in slices]),
        _Column(
            f"{INTERVAL_MASS:.0%}",
            [f"{entry.low:.1f} ... {entry.high:.1f}" for entry in slices],
            5,
            "left",
        ),
        _Column("grade", [entry.grade for entry in slices], 1, "left"),
    ]
    marks = [domain_mark(entry) for entry in slices]
    if any(marks):
        columns.append(_Column("domain", marks, justify="left"))
    console.print(
        f"{count_slices(len(slices))} in {visible(folder)}",
        highlight=False,
        style="italic",
        soft_wrap=True,
    )
    shown = [
        visible(name if entry.frame is None else f"{name}[{entry.frame}]")
        for name, entry in zip(names, slices, strict=True)
    ]
    console.print(_fitted(console, "slice", shown, columns))
    print_series(by_series, console)
    lines = [*domain_lines(slices), *exposure_lines([entry.acquisition for entry in slices])]
    for line in (*lines, report.unjudged, scored_by(session), RESEARCH_USE):
        if line is not None:
            console.print(line, highlight=False, markup=False, soft_wrap=True)


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
            _Column("slices", [str(summary.n) for _, summary in shown]),
            _Column("mean", [_number(summary.mean, 2) for _, summary in shown]),
            _Column("lowest", [_number(summary.min, 2) for _, summary in shown], 2),
            _Column("highest", [_number(summary.max, 2) for _, summary in shown], 3),
        ]
        if any(summary.novel for summary in summaries):
            columns.insert(1, _Column("novel", [str(summary.novel) for _, summary in shown], 1))
        series = [f"{n}: {visible(name)}" for n, (name, _) in enumerate(shown, start=1)]
        console.print(_fitted(console, "series", series, columns))
        if len(shown) == len(summaries):
            return
        line = f"and {len(summaries) - len(shown)} more series; --json gives all"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def scored_by(session: Mapping[str, Any]) -> str:
    """Return the line with backend, precision and weights."""
    return (
        f"Scored by {session['backend']} in {session['precision']} with weights "
        f"{session['preset']} {session['weights_sha256'][:12]}"
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
