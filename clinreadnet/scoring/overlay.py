"""A quality map over its slice, for pictures: inside the body only, with a true colour bar.

The map is mixed with the grey values of the slice. The colour bar therefore has two axes: the score
from left to right, and the grey value below the colour from bottom (black) to top (white).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.data.region import find_body
from clinreadnet.spec import GRADE_RANGE, TILE

OPACITY = 0.4
"""Share of the map's colour in a mixed colour, 0 ... 1."""

VIRIDIS = (
    *([68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141]),
    *([39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]),
)
"""Anchors of the colours of scores from 0 to 4, RGB."""


def shade(hu: NDArray[Any], width: float, level: float) -> NDArray[np.float32]:
    """Return grey values 0 ... 255 of HU in a window, of the same shape."""
    return np.asarray(255 * np.clip((hu - level + width / 2) / width, 0, 1), np.float32)


def draw_map(
    hu: NDArray[np.float32], quality_map: NDArray[np.float32], window: tuple[float, float]
) -> NDArray[np.uint8]:
    """Return a slice whose body lies under its coloured map.

    Args:
        hu: [512, 512], Hounsfield units.
        quality_map: [16, 16], scores 0...4.
        window: width and level, HU.

    Returns:
        uint8 [512, 512, 3], RGB.
    """
    grey = shade(hu, *window)[..., None]
    colours = _colours(quality_map).repeat(TILE, axis=0).repeat(TILE, axis=1)
    return _mixed(grey, colours, OPACITY * find_body(hu)[..., None])


def draw_bar(height: int, width: int) -> NDArray[np.uint8]:
    """Return the colours that `draw_map` draws.

    Returns:
        uint8 [height, width, 3], RGB: scores 0 to 4 from left to right, over white at the top to
        over black at the bottom.
    """
    grey = np.linspace(255, 0, height)[:, None, None]
    return _mixed(grey, _colours(np.linspace(0, GRADE_RANGE, width)), OPACITY)


def _colours(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Return the colours [..., 3] of scores [...], 0 ... 255."""
    at = np.clip(scores / GRADE_RANGE, 0, 1) * (len(VIRIDIS) - 1)
    anchors = np.arange(len(VIRIDIS))
    return np.stack([np.interp(at, anchors, channel) for channel in np.transpose(VIRIDIS)], axis=-1)


def _mixed(
    grey: NDArray[Any], colours: NDArray[np.float64], share: float | NDArray[Any]
) -> NDArray[np.uint8]:
    return np.rint(grey + share * (colours - grey)).astype(np.uint8)
