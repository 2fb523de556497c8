"""Plot scores of artifacts against the reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from clinreadnet.files import whole_file
from clinreadnet.scoring.plot import check_plot


def write_parity(scores: Mapping[str, NDArray[Any]], reference: str, target: Path) -> None:
    """Plot the scores of each artifact, and their differences, against those of the reference.

    Args:
        scores: [n] scores of the reference and of each artifact, by name.
        reference: name of the reference.
        target: ``.png``, ``.pdf`` or ``.svg``, written atomically.

    Raises:
        InputError: as in `check_plot`, or ``target`` cannot be written.
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
