"""Golden slices with extreme values and patterns that reveal defects.

Simulated slices have values from about -1200 to 2200 HU and similar edges. A graph with an error
above 3000 HU, at the border of the field or in a position bias can agree on all of them. These
slices contain values from -3024 to 30,000 HU, constant regions, low contrast, sharp and denoised
edges, a large field and empty margins. They have no labels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from clinreadnet.spec import SIZE

Image = NDArray[np.float64]

_Y, _X = np.mgrid[:SIZE, :SIZE]
_METAL, _SATURATED, _PADDING, _OUTSIDE = 30_000.0, 3071.0, -2048.0, -3024.0


def _metal(image: Image, rng: np.random.Generator) -> Image:
    """Two implants, one far above the 12-bit range."""
    made = image.copy()
    made[_disc(250, 200, 18)] = _SATURATED
    made[_disc(260, 330, 9)] = _METAL
    return made


def _patches(image: Image, rng: np.random.Generator) -> Image:
    """Constant squares alternating with squares of the image."""
    values = rng.integers(-900, 500, (SIZE // 64, SIZE // 64)).astype(np.float64)
    return np.where((_X // 64 + _Y // 64) % 2, image, _squares(values))


def _large_field(image: Image, rng: np.random.Generator) -> Image:
    """The body at half its size in air."""
    made = np.full_like(image, -1000.0)
    quarter = SIZE // 4
    made[quarter:-quarter, quarter:-quarter] = image.reshape(SIZE // 2, 2, -1, 2).mean(axis=(1, 3))
    return made


def _empty_margins(image: Image, rng: np.random.Generator) -> Image:
    """A round field in padding, and an empty band of another value."""
    made = np.where(_disc(SIZE // 2, SIZE // 2, 220), image, _PADDING)
    made[: SIZE // 16] = _OUTSIDE
    return made


def _disc(row: float, column: float, radius: float) -> NDArray[np.bool_]:
    return np.asarray((_Y - row) ** 2 + (_X - column) ** 2 < radius**2)


def _squares(values: Image) -> Image:
    side = SIZE // len(values)
    return values.repeat(side, axis=0).repeat(side, axis=1)


_MADE: dict[str, Callable[[Image, np.random.Generator], Image]] = {
    "metal": _metal,
    # Everything denser than fat at the end of the range.
    "saturated": lambda image, rng: np.where(image > -200, _SATURATED, image),
    # A ramp over the whole range from left to right, with stripes of 60 HU.
    "ramp": lambda image, rng: np.linspace(_PADDING, _SATURATED, SIZE)[None] + 60.0 * (_Y // 8 % 2),
    # Air with the noise of a scan.
    "air": lambda image, rng: -1000 + rng.normal(0, 12, image.shape),
    "patches": _patches,
    # Squares with the side of two tokens and random values, for varied attention.
    "blocks": lambda image, rng: _squares(rng.normal(0, 300, (SIZE // 8, SIZE // 8))),
    # Squares with the side of a tile and random values.
    "tiles": lambda image, rng: _squares(rng.normal(0, 300, (SIZE // 32, SIZE // 32))),
    # A quarter of the contrast, near the lower end of the encoded range.
    "dim": lambda image, rng: -1000 + 0.25 * (image + 1000),
    # Edges amplified by four.
    "sharp": lambda image, rng: image + 3 * (image - ndi.gaussian_filter(image, 1.0)),
    # No noise and rounded edges.
    "denoised": lambda image, rng: ndi.median_filter(image, 7),
    "large field": _large_field,
    "empty margins": _empty_margins,
}
"""How a slice of each kind is made from Hounsfield units [512, 512]."""

HARD_KINDS = tuple(_MADE)
"""Names of the kinds, in order."""


def hard_slices(images: NDArray[np.integer | np.floating], seed: int) -> NDArray[np.int16]:
    """Return one slice of each kind.

    Args:
        images: [n, 512, 512] Hounsfield units. The kinds use them in turn.
        seed: seed of the random values.

    Returns:
        [12, 512, 512], in the order of ``HARD_KINDS``.
    """
    made = []
    for number, make in enumerate(_MADE.values()):
        image = np.asarray(images[number % len(images)], np.float64)
        made.append(make(image, np.random.default_rng([seed, number])))
    limits = np.iinfo(np.int16)
    return np.clip(np.round(np.stack(made)), limits.min, limits.max).astype(np.int16)
