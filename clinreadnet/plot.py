"""The pictures: a scored series, a training run, artifacts against their reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.errors import InputError
from clinreadnet.grading import LIKERT, RESEARCH_USE
from clinreadnet.output import whole_file
from clinreadnet.score import Extreme, Report

_FORMATS = (".png", ".pdf", ".svg")
_WINDOW = (350.0, 40.0)  # width and level that the readers of LDCTIQA saw, HU


def check_plot(target: Path) -> None:
    """Refuse a plot that cannot be drawn, before anything is scored.

    Raises:
        InputError: matplotlib is not installed, or ``target`` is no picture this writes.
    """
    if find_spec("matplotlib") is None:
        raise InputError('--plot needs matplotlib; run `pip install "clinreadnet[plot]"`')
    if target.suffix.lower() not in _FORMATS:
        raise InputError(f"{target}: cannot draw that format; use one of {', '.join(_FORMATS)}")


def write_plot(report: Report, target: Path) -> None:
    """Draw the scores along z, and the two extreme slices beside their quality maps.

    Args:
        report: what `score_slices` returned.
        target: ``.png``, ``.pdf`` or ``.svg``, written whole or not at all.

    Raises:
        InputError: as `check_plot`, or ``target`` cannot be written.
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


def write_curves(rows: Sequence[Mapping[str, float]], target: Path) -> None:
    """Draw loss, validation scores and learning rate of a training run over its steps.

    Args:
        rows: of its `log.csv`, one an epoch, at least one.
        target: ``.png``, ``.pdf`` or ``.svg``, written whole or not at all.

    Raises:
        InputError: as `check_plot`, or ``target`` cannot be written.
    """
    check_plot(target)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    loss, score = figure.subplots(2, 1, sharex=True)
    steps = [row["step"] for row in rows]

    def draw(axes: Any, name: str, label: str, **style: Any) -> None:
        axes.plot(steps, [row[name] for row in rows], marker=".", label=label, **style)

    draw(loss, "loss", "training loss")
    loss.set_yscale("log")
    loss.set_ylabel("training loss")
    rate = loss.twinx()
    draw(rate, "learning_rate", "learning rate", color="0.7")
    rate.set_ylabel("learning rate", color="0.5")
    for name in ("plcc", "srocc", "krocc"):
        draw(score, name, name.upper())
    best = max(rows, key=lambda row: (row["score"] == row["score"], row["score"]))
    score.axvline(best["step"], color="0.5", linestyle="--", linewidth=1)
    score.set_title(f"best score {best['score']:.4f}, epoch {best['epoch']:.0f}", fontsize=10)
    score.set_xlabel("step")
    score.set_ylabel("validation")
    score.legend()
    score.grid(alpha=0.3)
    with whole_file(target) as temporary:
        figure.savefig(temporary, dpi=120)


def write_parity(scores: Mapping[str, NDArray[Any]], reference: str, target: Path) -> None:
    """Draw each artifact's scores, and their differences, over the reference's.

    Args:
        scores: [n] of each artifact and of the reference, by name.
        reference: the name of the reference.
        target: ``.png``, ``.pdf`` or ``.svg``, written whole or not at all.

    Raises:
        InputError: as `check_plot`, or ``target`` cannot be written.
    """
    check_plot(target)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    above, apart = figure.subplots(1, 2)
    truth = scores[reference]
    for name, ours in scores.items():
        if name != reference:
            above.scatter(truth, ours, s=12, alpha=0.6, label=name)
            apart.scatter(truth, ours - truth, s=12, alpha=0.6)
    above.axline((0, 0), slope=1, color="0.5", linewidth=1)
    above.set(xlim=(-0.1, 4.1), ylim=(-0.1, 4.1), aspect="equal", ylabel="score")
    above.legend(fontsize="small")
    apart.axhline(0, color="0.5", linewidth=1)
    apart.set(xlim=(-0.1, 4.1), ylabel="difference")
    for axes in (above, apart):
        axes.set_xlabel(f"score of the {reference}, {len(truth)} slices")
        axes.grid(alpha=0.3)
    with whole_file(target) as temporary:
        figure.savefig(temporary, dpi=150)


def _draw_scores(axes: Any, report: Report) -> None:
    scores = [s.score for s in report.slices]
    positions = [s.position for s in report.slices]
    known = [p for p in positions if p is not None]
    if len(known) == len(positions) and known == sorted(known):
        axes.set_xlabel("position along the slice normal (mm)")
        places: list[float] = known
    else:  # no positions, or several series one after another
        axes.set_xlabel("slice")
        places = [float(i + 1) for i in range(len(scores))]
    axes.plot(places, scores, marker="o" if len(scores) <= 100 else None, markersize=4)
    axes.axhline(report.series.mean, color="0.5", linestyle="--", linewidth=1)
    axes.set_ylim(-0.1, 4.1)
    axes.set_yticks(range(len(LIKERT)), labels=[f"{i} {word}" for i, word in enumerate(LIKERT)])
    axes.set_ylabel("score")
    axes.set_title(f"{len(scores)} slices, mean {report.series.mean:.2f} (dashed)", fontsize=10)
    axes.grid(alpha=0.3)


def _draw_slice(axes: list[Any], word: str, extreme: Extreme) -> Any:
    """Draw the slice, and again under its map; return the map's drawing."""
    width, level = _WINDOW
    hu = extreme.ref.load()
    low, high = level - width / 2, level + width / 2
    for ax in axes:
        ax.imshow(hu, cmap="gray", vmin=low, vmax=high)
        ax.set_axis_off()
    axes[0].set_title(f"{word}: {extreme.score:.2f}", fontsize=10)
    name = extreme.ref.path.name
    frame = "" if extreme.ref.frame is None else f"[{extreme.ref.frame}]"
    axes[1].set_title(f"{name}{frame}"[-28:], fontsize=8)
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
