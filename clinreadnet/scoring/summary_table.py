"""Tables of `clinreadnet summarize`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clinreadnet.scoring.control_chart import FEW, FEWEST, ControlChart
from clinreadnet.scoring.estimate import CONFIDENCE
from clinreadnet.scoring.estimate import FEWEST as FEWEST_SERIES
from clinreadnet.scoring.summary import Group, Summary
from clinreadnet.spec import RESEARCH_USE

_LINES = 50  # points outside the limits that are printed; --json gives all
_Charted = tuple[Group, ControlChart | None]


def print_summary(summary: Summary, console: Console) -> None:
    """Print the table of groups, the table of drift, and notes."""
    console.print(_quality_table(summary))
    charts = [(group, group.chart) for group in summary.groups]
    if any(chart is not None for _, chart in charts):
        console.print(_drift_table(summary, charts))
    for line in _notes(summary, charts):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(RESEARCH_USE, highlight=False, soft_wrap=True)


def _table(title: str, by: Sequence[str], headings: Sequence[str]) -> Table:
    table = Table(title=Text(title), title_justify="left")
    table.add_column(", ".join(by), overflow="fold", min_width=16)
    for heading in headings:
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))
    return table


def _quality_table(summary: Summary) -> Table:
    headings = ("series", "slices", "quality", f"{CONFIDENCE:.0%}", "CTDIvol (mGy)")
    table = _table("Quality (0 bad ... 4 excellent) and dose", summary.by, headings)
    for group in summary.groups:
        quality, dose = group.quality, group.ctdi_vol_mgy
        table.add_row(
            Text(group.name),
            str(len(group.series)),
            str(group.slices - group.novel),
            "" if quality is None else f"{quality.mean:.2f}",
            "" if quality is None else _span(quality.low, quality.high),
            "" if dose is None else f"{dose.mean:.1f}",
        )
    return table


def _drift_table(summary: Summary, charts: Sequence[_Charted]) -> Table:
    headings = ("days", "limits", "outside", "runs")
    table = _table("Drift: control chart of the means of days", summary.by, headings)
    for group, chart in charts:
        if chart is not None:
            table.add_row(
                Text(group.name),
                str(len(group.days)),
                _span(chart.lower, chart.upper),
                str(len(chart.outside)),
                str(len(chart.runs)),
            )
    return table


def _span(low: float | None, high: float | None) -> Text:
    shown = low is not None and high is not None
    return Text(f"{low:.2f} ... {high:.2f}" if shown else "", no_wrap=True)


def _notes(summary: Summary, charts: Sequence[_Charted]) -> list[str]:
    """Return notes about points out of control and excluded rows."""
    lines = [line for group, chart in charts for line in _alarms(group, chart)]
    if len(lines) > _LINES:
        lines[_LINES:] = [f"and {len(lines) - _LINES} more; --json gives all"]
    if novel := sum(group.novel for group in summary.groups):
        lines.append(f"{novel} of {summary.slices} slices are marked as novel and left out")
    if summary.not_scored:
        lines.append(f"{summary.not_scored} of {summary.slices} slices have no score")
    dates = [series.acquired for group in summary.groups for series in group.series]
    if undated := dates.count(None):
        lines.append(f"{undated} of {len(dates)} series have no date and are in no control chart")
    groups = len(summary.groups)
    if small := sum(0 < len(group.series) < FEWEST_SERIES for group in summary.groups):
        lines.append(
            f"{small} of {groups} groups have fewer than {FEWEST_SERIES} series and no interval"
        )
    if short := sum(0 < len(group.days) < FEWEST for group in summary.groups):
        lines.append(
            f"{short} of {groups} groups have fewer than {FEWEST} days and no control chart"
        )
    if unnamed := sum(group.unnamed for group in summary.groups):
        lines.append(
            f"{unnamed} of {groups} groups have a value that is not stated, may hold several "
            "scanners, and have no control chart"
        )
    if mixed := sum(chart is not None and len(group.scanners) > 1 for group, chart in charts):
        lines.append(f"{mixed} of {groups} control charts hold several scanners; add --by scanner")
    if any(chart is not None and len(group.days) < FEW for group, chart in charts):
        lines.append(f"limits from fewer than {FEW} days are uncertain")
    return lines


def _alarms(group: Group, chart: ControlChart | None) -> list[str]:
    if chart is None:
        return []
    days = group.days
    lines = []
    for index in chart.outside:
        day = days[index]
        side, limit = ("below", chart.lower) if day.score < chart.lower else ("above", chart.upper)
        lines.append(f"{group.name}: {day.date}: {day.score:.2f} is {side} {limit:.2f}")
    for first, last in chart.runs:
        side = "below" if days[first].score < chart.centre else "above"
        lines.append(
            f"{group.name}: {days[first].date} to {days[last].date}: {last - first + 1} days in "
            f"a row {side} {chart.centre:.2f}"
        )
    return lines
