"""The contact sheet of a simulated folder: a row for each anatomy, a column a degradation."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

from clinreadnet.data.ldctiqa import IMAGES_FOLDER, SIMULATION_FILE, read_tif
from clinreadnet.errors import InputError
from clinreadnet.files import whole_file
from clinreadnet.spec import RESEARCH_USE

MOST_ROWS = 8
"""Anatomies on a sheet; further ones are left out."""

_FORMATS = (".png", ".pdf", ".svg")
_WINDOW = (-160, 240)  # width 400, level 40


def check_preview(target: Path) -> None:
    """Refuse a sheet that cannot be drawn, before anything is simulated.

    Raises:
        InputError: matplotlib is not installed, or ``target`` is no picture this writes.
    """
    if find_spec("matplotlib") is None:
        raise InputError('a preview needs matplotlib; run `pip install "clinreadnet[plot]"`')
    if target.suffix.lower() not in _FORMATS:
        raise InputError(f"{target}: cannot draw that format; use one of {', '.join(_FORMATS)}")


def write_preview(folder: str | os.PathLike[str], target: Path) -> None:
    """Draw the first anatomies of a simulated folder, each image with score, noise and views.

    Args:
        folder: what ``simulate_folder`` wrote.
        target: ``.png``, ``.pdf`` or ``.svg``, written whole or not at all.

    Raises:
        InputError: as `check_preview`, or ``target`` cannot be written.
    """
    check_preview(target)
    from matplotlib.figure import Figure

    images = json.loads((Path(folder) / SIMULATION_FILE).read_text())["images"]
    rows: dict[int, list[str]] = {}
    for name in sorted(images):
        rows.setdefault(images[name]["anatomy"], []).append(name)
    shown = list(rows.values())[:MOST_ROWS]
    columns = max(map(len, shown))
    figure = Figure(figsize=(1.8 * columns, 2.15 * len(shown) + 0.4), layout="constrained")
    grid = figure.subplots(len(shown), columns, squeeze=False)
    for axes_row, names in zip(grid, shown, strict=True):
        for axes in axes_row:
            axes.axis("off")
        for axes, name in zip(axes_row, names, strict=False):
            image = images[name]
            hu = read_tif(Path(folder) / IMAGES_FOLDER / name)
            axes.imshow(hu, cmap="gray", vmin=_WINDOW[0], vmax=_WINDOW[1])
            how = (
                f" {image['denoiser']} of {image['denoised_from'][:-4]}"
                if image["denoiser"]
                else ""
            )
            axes.text(
                0.5,
                -0.02,
                f"{name[:-4]}{how}\nscore {image['score']}  {image['noise_hu']:.0f} HU"
                f"  {image['views']} views",
                transform=axes.transAxes,
                ha="center",
                va="top",
                fontsize=7,
            )
    figure.suptitle(f"Simulated slices, window 400/40. {RESEARCH_USE}", fontsize=9)
    with whole_file(target) as temporary:
        figure.savefig(temporary, dpi=110)
