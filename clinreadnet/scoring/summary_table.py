"""Tables of `clinreadnet summarize`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from clinreadnet.console import Column, fitted_table, print_lines
from clinreadnet.errors import counted, visible
from clinreadnet.physics.table import FIGURES
from clinreadnet.scoring.control_chart import FALSE_ALARMS, FEW, FEWEST, RULES, ControlChart
from clinreadnet.scoring.ecqm import print_ecqm_table
from clinreadnet.scoring.estimate import CONFIDENCE
from clinreadnet.scoring.estimate import FEWEST as FEWEST_SERIES
from clinreadnet.scoring.score_file import READ_FIGURES
from clinreadnet.scoring.summary import Group, Summary
from clinreadnet.spec import RESEARCH_USE

_ZONES = (2, 3)  # rules that have no line of their own kind, as outside and runs have
_LINES = 50  # points outside the limits that are printed; --json gives all
_LEFT_OUT = (3, 6, 5)  # of the columns of READ_FIGURES
_Charted = tuple[Group, ControlChart | None]


def print_summary(summary: Summary, console: Console) -> None:
    """Print the table of groups, the table of drift, and notes."""
    _print_quality(summary, console)
    charts = [(group, group.chart) for group in summary.groups]
    if any(chart is not None for _, chart in charts):
        _print_drift(summary, charts, console)
    if summary.ecqm is not None:
        print_ecqm_table(summary.ecqm, console)
    print_lines(console, *_notes(summary, charts), RESEARCH_USE)


def _print_table(
    console: Console, title: str, by: Sequence[str], groups: Sequence[Group], columns: list[Column]
) -> None:
    names = [group.name for group in groups]
    console.print(fitted_table(console, ", ".join(by), names, columns, most=16, title=title))


def _print_quality(summary: Summary, console: Console) -> None:
    groups = summary.groups
    qualities = [group.quality for group in groups]
    doses = [group.ctdi_vol_mgy for group in groups]
    spans = ["" if q is None else _span(q.low, q.high) for q in qualities]
    columns = [
        Column("series", [str(len(group.series)) for group in groups], 3),
        Column("slices", [str(group.slices - group.novel) for group in groups], 2),
        Column("quality", ["" if q is None else f"{q.mean:.2f}" for q in qualities]),
        *([Column(f"{CONFIDENCE:.0%}", spans, 1)] if any(spans) else []),
        Column("CTDIvol (mGy)", ["" if d is None else f"{d.mean:.1f}" for d in doses], 4),
    ]
    for name, order in zip(READ_FIGURES, _LEFT_OUT, strict=True):
        (figure,) = (figure for figure in FIGURES if figure.name == name)
        means = [group.mean(name) for group in groups]
        cells = ["" if mean is None else f"{mean.mean:.{figure.digits}f}" for mean in means]
        if any(cells):
            columns.append(Column(figure.title, cells, order))
    if summary.site_map is not None:
        sites = [group.site_mean for group in groups]
        cells = ["" if site is None else f"{site:.2f}" for site in sites]
        columns.insert(3 + any(spans), Column("site", cells))
    title = "Quality (0 bad ... 4 excellent) and dose"
    _print_table(console, title, summary.by, groups, columns)


def _print_drift(summary: Summary, charts: Sequence[_Charted], console: Console) -> None:
    charted = [(group, chart) for group, chart in charts if chart is not None]
    columns = [
        Column("days", [str(len(group.days)) for group, _ in charted], 2),
        Column("limits", [_span(chart.lower, chart.upper) for _, chart in charted], 1),
        Column("outside", [str(len(chart.outside)) for _, chart in charted]),
        *(
            Column(_rule(rule), [str(len(chart.marked(rule))) for _, chart in charted], 3)
            for rule in _ZONES
        ),
        Column("runs", [str(len(chart.runs)) for _, chart in charted]),
    ]
    title = "Drift: control chart of the means of days"
    _print_table(console, title, summary.by, [group for group, _ in charted], columns)


def _rule(rule: int) -> str:
    least, of, _ = RULES[rule]
    return f"{least} of {of}"


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.2f} ... {high:.2f}"


def _notes(summary: Summary, charts: Sequence[_Charted]) -> list[str]:
    """Return notes about points out of control and excluded rows."""
    lines = [line for group, chart in charts for line in _alarms(group, chart)]
    if len(lines) > _LINES:
        lines[_LINES:] = [f"and {len(lines) - _LINES} more; --json gives all"]
    if any(chart is not None for _, chart in charts):
        lines.append(f"rules of Western Electric: {FALSE_ALARMS}")
    if novel := sum(group.novel for group in summary.groups):
        lines.append(
            f"{counted(novel, 'slice', summary.slices, verb='is')} marked as novel and left out"
        )
    if missing := summary.not_scored:
        lines.append(f"{counted(missing, 'slice', summary.slices, verb='has')} no score")
    if summary.site_map is not None:
        name = visible(summary.site_map) or "scale and map not stated"
        lines.append(f"Site scores: means of the grades of the site's readers ({name})")
    dates = [series.acquired for group in summary.groups for series in group.series]
    if undated := dates.count(None):
        lines.append(
            f"{counted(undated, 'series', len(dates), verb='has')} no date, "
            "and no place in a control chart"
        )
    groups = len(summary.groups)
    if small := sum(0 < len(group.series) < FEWEST_SERIES for group in summary.groups):
        lines.append(
            f"{counted(small, 'group', groups, verb='has')} fewer than {FEWEST_SERIES} series "
            "and no interval"
        )
    if short := sum(0 < len(group.days) < FEWEST for group in summary.groups):
        lines.append(
            f"{counted(short, 'group', groups, verb='has')} fewer than {FEWEST} days and no "
            "control chart"
        )
    if unnamed := sum(group.unnamed for group in summary.groups):
        lines.append(
            f"{counted(unnamed, 'group', groups, verb='has')} a value that is not stated, so "
            "perhaps several scanners, and no control chart"
        )
    if mixed := sum(chart is not None and len(group.scanners) > 1 for group, chart in charts):
        lines.append(
            f"{counted(mixed, 'control chart', groups, verb='holds')} several scanners; add --by "
            "scanner"
        )
    if any(chart is not None and len(group.days) < FEW for group, chart in charts):
        lines.append(f"limits from fewer than {FEW} days are uncertain")
    return lines if summary.limits is None else lines + summary.limits.lines


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
    for rule in _ZONES:
        reach = RULES[rule][2]
        for first, last in chart.marked(rule):
            side = "below" if days[first].score < chart.centre else "above"
            dates = dict.fromkeys((days[first].date, days[last].date))
            lines.append(
                f"{group.name}: {' to '.join(dates)}: {_rule(rule)} days more than {reach} "
                f"standard deviation{'s' * (reach > 1)} {side} {chart.centre:.2f}"
            )
    return lines
