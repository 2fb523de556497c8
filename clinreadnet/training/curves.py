"""Plot the curves of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clinreadnet.files import whole_file
from clinreadnet.scoring.plot import check_plot


def write_curves(rows: Sequence[Mapping[str, float]], target: Path) -> None:
    """Plot loss, validation scores and learning rate of a run over its steps.

    Args:
        rows: rows of `log.csv`, at least one.
        target: ``.png``, ``.pdf`` or ``.svg``, written atomically.

    Raises:
        InputError: as in `check_plot`, or ``target`` cannot be written.
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
    best = max(rows, key=lambda row: (row["sum"] == row["sum"], row["sum"]))
    score.axvline(best["step"], color="0.5", linestyle="--", linewidth=1)
    score.set_title(f"best sum {best['sum']:.4f}, epoch {best['epoch']:.0f}", fontsize=10)
    score.set_xlabel("step")
    score.set_ylabel("validation")
    score.legend()
    score.grid(alpha=0.3)
    with whole_file(target) as temporary:
        figure.savefig(temporary, dpi=120)
