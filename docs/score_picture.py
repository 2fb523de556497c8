"""Draw the README's picture: `make picture`.

    python docs/score_picture.py docs/images/score.png

One simulated slice, scanned at four doses, scored with the bundle in the package.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.default import SHIPPED
from clinreadnet.simulator.phantom.draw import draw_phantom
from clinreadnet.simulator.scan import VIEWS, Protocol, degrade
from clinreadnet.spec import RESEARCH_USE

SEED, ANATOMY, LEVEL = 7, 3, 0.3
NOISE_HU = (10.0, 28.0, 46.0, 80.0)
"""Noise in soft tissue that the four scans ask for."""
WINDOW = 40 - 175, 40 + 175
"""Lowest and highest value shown, HU: the abdomen's window, 350 wide."""
WIDTH, COLOURS = 1000, 256


def draw(target: str) -> None:
    """Write the picture."""
    phantom = draw_phantom(SEED, ANATOMY, LEVEL)
    scans = degrade(
        phantom,
        Protocol(NOISE_HU),
        lambda k: np.random.default_rng([SEED, k]),
        range(0, len(NOISE_HU) * len(VIEWS), len(VIEWS)),
    )
    with Session(SHIPPED) as session:
        scores = session.score(np.stack([scan.hu for scan in scans]), pixel_mm=phantom.pixel_mm)
    rows, columns = (_range(phantom.body.any(axis=axis)) for axis in (1, 0))
    figure = Figure(figsize=(10, 2.75), layout="constrained")
    for i, (axes, scan) in enumerate(zip(figure.subplots(1, len(scans)), scans, strict=True)):
        axes.imshow(scan.hu[rows, columns], cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1])
        dose = scan.exposure / scans[0].exposure
        axes.set_title(
            f"score {scores.score[i]:.1f}  ({scores.low[i]:.1f} … {scores.high[i]:.1f})\n"
            f"dose {dose:.0%}, noise {scan.noise_hu:.0f} HU",
            fontsize=11,
        )
        axes.axis("off")
    figure.supxlabel(f"A simulated slice at four doses. {RESEARCH_USE}", fontsize=9)
    with tempfile.TemporaryDirectory() as folder:
        figure.savefig(Path(folder) / "large.png", dpi=200)
        with Image.open(Path(folder) / "large.png") as image:
            size = WIDTH, round(image.height * WIDTH / image.width)
            small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    reduced = small.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    reduced.save(target, optimize=True)


def _range(body: NDArray[np.bool_]) -> slice:
    """Return the part of an axis [512] that holds the body, with a margin."""
    inside = np.flatnonzero(body)
    return slice(max(inside[0] - 10, 0), inside[-1] + 11)


if __name__ == "__main__":
    draw(*sys.argv[1:])
