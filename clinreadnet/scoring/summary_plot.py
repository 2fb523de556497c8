"""Plot a summary: quality against CTDIvol, and a control chart of each group in time."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from clinreadnet.errors import counted
from clinreadnet.files import whole_file
from clinreadnet.scoring.control_chart import RULES, ControlChart
from clinreadnet.scoring.estimate import CONFIDENCE
from clinreadnet.scoring.plot import check_plot, label_scores
from clinreadnet.scoring.summary import Day, Group, Summary
from clinreadnet.spec import LIKERT, RESEARCH_USE

MOST_GROUPS = 12
"""Number of groups to draw, those with the most series; --json has all groups."""

_MARKERS = "os^Dv*"
_NAME = 60  # characters of a group's name


def write_summary_plot(summary: Summary, target: Path) -> None:
    """Draw the quality of each series against its CTDIvol, and the control chart of each group.

    If no series states a CTDIvol, the quality of each group is drawn instead. Bars are the 95 %
    confidence intervals of the means. In a control chart, points outside the
    limits are crosses, and runs on one side of the centre line are red. The first point that a rule
    of Western Electric marks has the number of the rule.

    Args:
        summary: result of `summarize`.
        target: ``.png``, ``.pdf`` or ``.svg``, written atomically.

    Raises:
        InputError: as in `check_plot`, or ``target`` cannot be written.
    """
    check_plot(target)
    from matplotlib.figure import Figure

    largest = sorted(summary.groups, key=lambda group: -len(group.series))[:MOST_GROUPS]
    keys = {group.key for group in largest}
    groups = [group for group in summary.groups if group.key in keys]
    charts = [(group, group.chart) for group in groups]
    drawn = [(group, chart) for group, chart in charts if chart is not None]
    rows = (len(drawn) + 1) // 2
    doses = any(group.ctdi_vol_mgy is not None for group in groups)
    first = 4.5 + 0.1 * len(groups) if doses else 1.2 + 0.35 * len(groups)
    figure = Figure(figsize=(11, first + 2.5 * rows + 0.4), layout="constrained")
    grid = figure.add_gridspec(1 + rows, 2, height_ratios=(first, *[2.5] * rows))
    axes = figure.add_subplot(grid[0, :])
    (_draw_doses if doses else _draw_groups)(axes, groups)
    if len(groups) < len(summary.groups):
        axes.set_title(f"the {len(groups)} largest of {len(summary.groups)} groups", fontsize=10)
    for number, (group, chart) in enumerate(drawn):
        column = slice(None) if len(drawn) == 1 else number % 2
        _draw_chart(figure.add_subplot(grid[1 + number // 2, column]), group, chart)
    figure.suptitle(f"Predicted image quality. {RESEARCH_USE}", fontsize=11)
    with whole_file(target) as temporary:
        figure.savefig(temporary, dpi=150)


def _draw_doses(axes: Any, groups: list[Group]) -> None:
    missing = 0
    for number, group in enumerate(groups):
        known = [series for series in group.series if series.ctdi_vol_mgy is not None]
        missing += len(group.series) - len(known)
        style = {"color": f"C{number % 10}", "marker": _MARKERS[number // 10]}
        axes.scatter(
            [series.ctdi_vol_mgy for series in known],
            [series.score for series in known],
            s=14,
            alpha=0.4,
            linewidths=0,
            **style,
        )
        dose, quality = group.ctdi_vol_mgy, group.quality
        if dose is None or quality is None:
            continue
        reach = None if quality.low is None else quality.mean - quality.low
        axes.errorbar(
            dose.mean,
            quality.mean,
            reach,
            capsize=3,
            markersize=8,
            markeredgecolor="black",
            linestyle="none",
            label=f"{group.name[:_NAME]} ({quality.n})",
            **style,
        )
    axes.set_xlim(left=0)
    lacking = f" ({counted(missing, 'series', verb='states')} none)" if missing else ""
    axes.set_xlabel(f"CTDIvol (mGy){lacking}")
    label_scores(axes)
    if axes.get_legend_handles_labels()[0]:
        title = f"mean and {CONFIDENCE:.0%} interval (series)"
        legend = axes.legend(
            fontsize=8,
            title=title,
            title_fontsize=8,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.12),
            ncols=2,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    axes.grid(alpha=0.3)


def _draw_groups(axes: Any, groups: list[Group]) -> None:
    for number, group in enumerate(groups):
        colour = f"C{number % 10}"
        scores = [series.score for series in group.series]
        axes.scatter(scores, [number] * len(scores), s=14, alpha=0.4, linewidths=0, color=colour)
        quality = group.quality
        if quality is None:
            continue
        axes.plot(quality.mean, number, "o", color=colour, markersize=8, markeredgecolor="black")
        if quality.low is not None:
            axes.plot([quality.low, quality.high], [number] * 2, "|-", color=colour)
    names = [f"{group.name[:_NAME]} ({len(group.series)})" for group in groups]
    axes.set_yticks(range(len(groups)), labels=names, fontsize=8, parse_math=False)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(-0.1, 4.1)
    axes.set_xticks(range(len(LIKERT)), labels=[f"{i} {word}" for i, word in enumerate(LIKERT)])
    interval = f"mean and {CONFIDENCE:.0%} interval (series)"
    axes.set_xlabel(f"score, {interval}; no series states a CTDIvol")
    axes.grid(alpha=0.3)


def _draw_chart(axes: Any, group: Group, chart: ControlChart) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    days: list[Day] = group.days
    x = np.array([date.fromisoformat(day.date) for day in days])
    scores = np.array([day.score for day in days])
    axes.plot(x, scores, color="C0", marker="o", markersize=3, linewidth=1)
    axes.axhline(chart.centre, color="0.4", linewidth=1)
    for limit in (chart.lower, chart.upper):
        axes.axhline(limit, color="C3", linestyle="--", linewidth=1)
    for first, last in chart.runs:
        part = slice(first, last + 1)
        axes.plot(x[part], scores[part], color="C3", marker="o", markersize=3, linewidth=1)
    for rule in RULES:
        for first, _ in chart.marked(rule):
            axes.annotate(
                str(rule),
                (x[first], scores[first]),
                xytext=(4 * rule - 10, 4),
                textcoords="offset points",
                fontsize=7,
                color="C3",
            )
    outside = list(chart.outside)
    axes.scatter(x[outside], scores[outside], color="C3", marker="x", s=50, zorder=3)
    locator = AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set_fontsize(8)
    axes.set_ylabel("score", fontsize=8)
    axes.tick_params(labelsize=8)
    title = f"{group.name[:_NAME]}: means of days,\nlimits {chart.lower:.2f} ... {chart.upper:.2f}"
    if chart.signals:
        title += "; numbers: rules of Western Electric"
    axes.set_title(title, fontsize=8, parse_math=False)
    axes.grid(alpha=0.3)
