"""The plot of a scored series."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from clinreadnet.errors import InputError, visible
from clinreadnet.files import whole_file
from clinreadnet.scoring.result import Extreme, SeriesReport
from clinreadnet.spec import INTERVAL_MASS, LIKERT, RESEARCH_USE

_FORMATS = (".png", ".pdf", ".svg")
_WINDOW = (350.0, 40.0)  # width and level of the window of LDCTIQA's radiologists, HU


def check_plot(target: Path) -> None:
    """Check that a plot can be drawn, before the work for it.

    Raises:
        InputError: matplotlib is not installed, or the format of ``target`` is not supported.
    """
    if find_spec("matplotlib") is None:
        raise InputError('plotting needs matplotlib; run `pip install "clinreadnet[plot]"`')
    if target.suffix.lower() not in _FORMATS:
        raise InputError(f"{target}: cannot draw that format; use one of {', '.join(_FORMATS)}")


def write_plot(report: SeriesReport, target: Path) -> None:
    """Draw the scores along z, and the two extreme slices beside their quality maps.

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

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    grid = figure.add_gridspec(2, 4, height_ratios=(1, 1))
    _draw_scores(figure.add_subplot(grid[0, :]), report)
    maps = []
    for column, (word, extreme) in enumerate((("worst", report.worst), ("best", report.best))):
        axes = [figure.add_subplot(grid[1, 2 * column + i]) for i in range(2)]
        maps.append(_draw_slice(axes, word, extreme))
    bar = figure.colorbar(maps[-1], ax=figure.axes[1:], orientation="horizontal", fraction=0.05)
    bar.set_label("score of each 32x32 patch")
    bar.set_ticks(range(len(LIKERT)), labels=[f"{i} {word}" for i, word in enumerate(LIKERT)])
    bar.ax.tick_params(labelsize="small")
    figure.suptitle(f"Predicted image quality. {RESEARCH_USE}", fontsize=11)
    with whole_file(target) as temporary:
        figure.savefig(temporary, dpi=150)


def _draw_scores(axes: Any, report: SeriesReport) -> None:
    scores = np.array([s.score for s in report.slices])
    positions = [s.position for s in report.slices]
    known = [p for p in positions if p is not None]
    if len(known) == len(positions) and known == sorted(known):
        axes.set_xlabel("position along the slice normal (mm)")
        places: list[float] = known
    else:  # no positions, or several series one after another
        axes.set_xlabel("slice")
        places = [float(i + 1) for i in range(len(scores))]
    x = np.array(places)
    novel = np.array([s.in_domain is False for s in report.slices])
    low, high = (np.array([getattr(s, end) for s in report.slices]) for end in ("low", "high"))
    for some, colour in ((~novel, "C0"), (novel, "C1")):
        axes.vlines(x[some], low[some], high[some], colour, alpha=0.35, linewidth=2)
    marker = "o" if len(scores) <= 100 else None
    axes.plot(x, np.where(novel, np.nan, scores), color="C0", marker=marker, markersize=4)
    mean = "no mean" if len(report.by_series) == 1 else f"{len(report.by_series)} series"
    if report.series.mean is not None and len(report.by_series) == 1:
        axes.axhline(report.series.mean, color="0.5", linestyle="--", linewidth=1)
        mean = f"mean {report.series.mean:.2f} (dashed)"
    if novel.any():
        axes.scatter(x[novel], scores[novel], color="C1", marker="x", zorder=3)
        mean += f", {novel.sum()} marked as novel (crosses) and left out"
    label_scores(axes)
    count = "1 slice" if len(scores) == 1 else f"{len(scores)} slices"
    interval = f"{INTERVAL_MASS:.0%} intervals (bars)"
    axes.set_title(f"{count}, {interval}, {mean}", fontsize=10)
    axes.grid(alpha=0.3)


def label_scores(axes: Any) -> None:
    """Set the range of a score axis and label it with the words of the grades."""
    axes.set_ylim(-0.1, 4.1)
    axes.set_yticks(range(len(LIKERT)), labels=[f"{i} {word}" for i, word in enumerate(LIKERT)])
    axes.set_ylabel("score")


def _draw_slice(axes: list[Any], word: str, extreme: Extreme) -> Any:
    """Draw a slice and its quality map as an overlay; return the image of the map."""
    width, level = _WINDOW
    hu = extreme.ref.load()
    low, high = level - width / 2, level + width / 2
    for ax in axes:
        ax.imshow(hu, cmap="gray", vmin=low, vmax=high)
        ax.set_axis_off()
    mark = " (novel)" if extreme.novel else ""
    axes[0].set_title(f"{word}: {extreme.score:.2f}{mark}", fontsize=10)
    name = extreme.ref.path.name
    frame = "" if extreme.ref.frame is None else f"[{extreme.ref.frame}]"
    axes[1].set_title(visible(f"{name}{frame}")[-28:], fontsize=8, parse_math=False)
    rows, columns = np.array(hu.shape)
    return axes[1].imshow(
        extreme.quality_map,
        cmap="viridis",
        vmin=0,
        vmax=4,
        alpha=0.45,
        extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
        interpolation="nearest",
    )
