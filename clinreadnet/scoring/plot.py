"""The plot of a scored series."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from clinreadnet.data.slices import framed
from clinreadnet.errors import InputError, counted, visible
from clinreadnet.files import whole_file
from clinreadnet.scoring.overlay import draw_bar, draw_map, shade
from clinreadnet.scoring.result import (
    Extreme,
    SeriesReport,
    SliceScore,
    summarise,
)
from clinreadnet.scoring.site_map import SiteMap, site_lines
from clinreadnet.spec import GRADE_RANGE, INTERVAL_MASS, LIKERT, RESEARCH_USE

MOST_SERIES = 32
"""Series that are drawn, the first ones."""

_FORMATS = (".png", ".pdf", ".svg")
_NAME = 28  # characters of the name of a slice
_NOTE = 150  # characters of a line of text
_WINDOW = (350.0, 40.0)  # width and level of the window of LDCTIQA's radiologists, HU


def check_plot(target: Path) -> None:
    """Check that a plot can be drawn, before the work for it.

    Raises:
        InputError: matplotlib is not installed, or the format of ``target`` is not supported.
    """
    check_matplotlib()
    if target.suffix.lower() not in _FORMATS:
        raise InputError(f"{target}: cannot draw that format; use one of {', '.join(_FORMATS)}")


def check_matplotlib() -> None:
    """Raise InputError if matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise InputError('plotting needs matplotlib; run `pip install "clinreadnet[plot]"`')


def write_plot(report: SeriesReport, target: Path) -> None:
    """Draw the scores of each series along z, and the two extreme slices beside their quality maps.

    Bars are the 90 % intervals of the scores. Slices that are marked as novel are crosses of
    another colour and are not part of the line.

    Args:
        report: result of `score_slices`.
        target: ``.png``, ``.pdf`` or ``.svg``, written atomically.

    Raises:
        InputError: as in `check_plot`, or ``target`` cannot be written.
    """
    check_plot(target)
    from matplotlib.figure import Figure

    members = list(report.members.values())
    drawn = members[:MOST_SERIES]
    columns = 1 if len(drawn) == 1 else 2 if len(drawn) <= 4 else 4
    rows = -(-len(drawn) // columns)
    heights = (3.0 if len(drawn) == 1 else 1.9 * rows, 3.4)
    notes = site_lines(report.slices, report.site_map)
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    halves = figure.add_gridspec(2, 1, height_ratios=heights)
    panels = halves[0].subgridspec(rows, columns)
    for number, own in enumerate(drawn):
        axes = figure.add_subplot(panels[number // columns, number % columns])
        name = "" if len(members) == 1 else f"{number + 1}: "
        slices = [report.slices[index] for index in own]
        draw_scores(axes, slices, name)
        if report.site_map is not None:
            _draw_site_scores(axes, slices, report.site_map, name)
        if number % columns:
            axes.set_ylabel("")
            axes.set_yticklabels([])
    extremes = halves[1].subgridspec(2, 4, height_ratios=(1, 0.08))
    for column, (word, extreme) in enumerate((("worst", report.worst), ("best", report.best))):
        _draw_slice(
            [figure.add_subplot(extremes[0, 2 * column + i]) for i in range(2)], word, extreme
        )
    _draw_bar(figure.add_subplot(extremes[1, :]))
    count = f"{counted(len(report.slices), 'slice')} of {len(members)} series. "
    if len(drawn) < len(members):
        count += f"The first {len(drawn)} of them. "
    title = f"Predicted image quality. {'' if len(members) == 1 else count}{RESEARCH_USE}"
    figure.suptitle(title, fontsize=11)
    if notes:
        figure.supxlabel("\n".join(fill(line, _NOTE) for line in notes), fontsize=8)
    with whole_file(target) as temporary:
        figure.savefig(temporary, dpi=150)


def places_of(slices: Sequence[SliceScore]) -> tuple[list[float], str]:
    """Return the place of each slice on an axis, and the label of the axis.

    Places are positions in mm, or numbers from 1 if positions are missing or do not ascend, as
    those of several phases.
    """
    known = [entry.position for entry in slices if entry.position is not None]
    if len(known) == len(slices) and known == sorted(known):
        return known, "position along the slice normal (mm)"
    return [float(number) for number in range(1, len(slices) + 1)], "slice"


def draw_scores(axes: Any, slices: Sequence[SliceScore], name: str) -> None:
    """Draw the slices of a series; ``name`` begins the title, and is empty for a series alone."""
    scores = np.array([s.score for s in slices])
    places, label = places_of(slices)
    axes.set_xlabel(label if not name or label == "slice" else "mm")
    x = np.array(places)
    novel = np.array([s.in_domain is False for s in slices])
    low, high = (np.array([getattr(s, end) for s in slices]) for end in ("low", "high"))
    for some, colour in ((~novel, "C0"), (novel, "C1")):
        axes.vlines(x[some], low[some], high[some], colour, alpha=0.35, linewidth=2)
    marker = "o" if len(scores) <= 100 else None
    axes.plot(x, np.where(novel, np.nan, scores), color="C0", marker=marker, markersize=4)
    summary = summarise(slices)
    mean = "no mean"
    if summary.mean is not None:
        axes.axhline(summary.mean, color="0.5", linestyle="--", linewidth=1)
        mean = f"mean {summary.mean:.2f}" + ("" if name else " (dashed)")
    if novel.any():
        axes.scatter(x[novel], scores[novel], color="C1", marker="x", zorder=3)
        count = f", {novel.sum()}"
        mean += f"{count} novel" if name else f"{count} marked as novel (crosses) and left out"
    label_scores(axes)
    interval = "" if name else f" {INTERVAL_MASS:.0%} intervals (bars),"
    axes.set_title(
        f"{name}{counted(len(scores), 'slice')},{interval} {mean}", fontsize=10 - bool(name)
    )
    if name:
        axes.tick_params(labelsize=8)
        axes.locator_params(axis="x", nbins=4)  # labels of more would overlap in a narrow panel
    axes.grid(alpha=0.3)


def _draw_site_scores(
    axes: Any, slices: Sequence[SliceScore], site_map: SiteMap, name: str
) -> None:
    """Draw the site scores beside the scores, on an axis of their own whose top is the best grade.

    ``name`` is empty for a series alone.
    """
    own = axes.twinx()
    values = [np.nan if s.in_domain is False else s.site_score for s in slices]
    own.plot(places_of(slices)[0], values, "C2.:", markersize=5)
    margin = (site_map.excellent - site_map.bad) * 0.1 / GRADE_RANGE
    own.set_ylim(site_map.bad - margin, site_map.excellent + margin)
    own.tick_params(labelsize=8 if name else 10, colors="C2")
    label = "site score (dotted)" + ("" if name else f", {site_map.scale}")
    own.set_ylabel(label, color="C2", fontsize=8)


def label_scores(axes: Any) -> None:
    """Set the range of a score axis and label it with the words of the grades."""
    axes.set_ylim(-0.1, 4.1)
    axes.set_yticks(range(len(LIKERT)), labels=[f"{i} {word}" for i, word in enumerate(LIKERT)])
    axes.set_ylabel("score")


def _draw_slice(axes: list[Any], word: str, extreme: Extreme) -> None:
    """Draw the slice, and the slice under its map."""
    hu = extreme.ref.load()
    axes[0].imshow(shade(hu, *_WINDOW), cmap="gray", vmin=0, vmax=255)
    axes[1].imshow(draw_map(hu, extreme.quality_map, _WINDOW))
    for ax in axes:
        ax.set_axis_off()
    mark = " (novel)" if extreme.novel else ""
    axes[0].set_title(f"{word}: {extreme.score:.2f}{mark}", fontsize=10)
    shown = visible(framed(extreme.ref.path.name, extreme.ref.frame))
    shown = shown if len(shown) <= _NAME else f"...{shown[3 - _NAME :]}"
    axes[1].set_title(shown, fontsize=8, parse_math=False)


def _draw_bar(axes: Any) -> None:
    axes.imshow(draw_bar(64, 512), extent=(0, GRADE_RANGE, 0, 1), aspect="auto")
    axes.set_xticks(range(len(LIKERT)), labels=[f"{i} {word}" for i, word in enumerate(LIKERT)])
    axes.set_yticks([0, 1], labels=["dark", "bright"])
    axes.tick_params(labelsize="small")
    axes.set_xlabel("score of each 32x32 patch, over dark to bright pixels", fontsize="small")
