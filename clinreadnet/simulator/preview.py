"""Draw the contact sheet of a simulated folder: images and their tiles for each anatomy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.data.ldctiqa import read_ldctiqa
from clinreadnet.data.tiles import read_tiles
from clinreadnet.files import whole_file
from clinreadnet.scoring.plot import check_plot
from clinreadnet.spec import LIKERT, RESEARCH_USE

MOST_ROWS = 8
"""Largest number of anatomies on a sheet."""

_WINDOW = (-160, 240)  # width 400, level 40
_LETTERS = 14  # of the title in an inch


def write_preview(folder: str | os.PathLike[str], target: Path) -> None:
    """Draw the first anatomies of a simulated folder, each image with score, noise and views.

    Args:
        folder: folder of ``simulate_folder``.
        target: ``.png``, ``.pdf`` or ``.svg``, written atomically.

    Raises:
        InputError: as `check_plot`, or ``target`` cannot be written.
    """
    check_plot(target)
    from matplotlib.figure import Figure

    data = read_ldctiqa(folder)
    records = data.records or []
    tiles = read_tiles(data.folder, data.names)
    anatomies: dict[int, list[int]] = {}
    for index, record in enumerate(records):
        anatomies.setdefault(record["anatomy"], []).append(index)
    shown = list(anatomies.values())[:MOST_ROWS]
    columns = max(map(len, shown))
    words = ", ".join(f"{grade} {word}" for grade, word in enumerate(LIKERT))
    width = max(1.8 * columns, 3.0)
    title = fill(
        f"Simulated slices, window 400/40, and the quality of their tiles ({words}: dark to "
        f"bright). {RESEARCH_USE}",
        int(_LETTERS * width),
    )
    height = 3.95 * len(shown) + 0.4 + 0.15 * title.count("\n")
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(2 * len(shown), columns, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    for row, indices in enumerate(shown):
        for column, index in enumerate(indices):
            above, below = grid[2 * row, column], grid[2 * row + 1, column]
            hu = data.hu(index)
            above.imshow(hu, cmap="gray", vmin=_WINDOW[0], vmax=_WINDOW[1])
            _caption(above, data.names[index], records[index])
            if tiles is not None:
                _draw_tiles(below, hu, tiles.quality[index], tiles.weight[index])
    figure.suptitle(title, fontsize=9)
    with whole_file(target) as temporary:
        figure.savefig(temporary, dpi=110)


def _caption(axes: Any, name: str, image: Mapping[str, Any]) -> None:
    copy = f" {image['denoiser']} of {image['denoised_from'][:-4]}" if image["denoiser"] else ""
    text = (
        f"{name[:-4]}{copy}\nscore {image['score']}  {image['noise_hu']:.0f} HU"
        f"  {image['views']} views"
    )
    place = {"transform": axes.transAxes, "ha": "center", "va": "top", "fontsize": 7}
    axes.text(0.5, -0.02, text, **place)


def _draw_tiles(
    axes: Any, hu: NDArray[Any], quality: NDArray[np.float32], weight: NDArray[np.float32]
) -> None:
    """Draw the tiles over the image, with their weight as opacity."""
    axes.imshow(hu, cmap="gray", vmin=_WINDOW[0], vmax=_WINDOW[1])
    edge = len(hu) - 0.5
    extent = (-0.5, edge, edge, -0.5)
    alpha = 0.7 * np.clip(weight, 0, 1)
    axes.imshow(quality, cmap="viridis", vmin=0, vmax=4, alpha=alpha, extent=extent)
