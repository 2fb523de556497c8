"""Sums of pixels over 2x2 pixels, cells and windows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

SOFT_TISSUE = (0.0, 100.0)
"""Range of the mean of a window of soft tissue, HU."""

MIDDLE, SPAN = sum(SOFT_TISSUE) / 2, (SOFT_TISSUE[1] - SOFT_TISSUE[0]) / 2
"""Middle of that range, which is subtracted so that squares are exact enough, and half of it."""


def pair_sums(image: NDArray[Any]) -> Float32:
    """Return the sums of 2x2 elements: [2 n, 2 m] -> float32 [n, m]."""
    rows = image[0::2] + image[1::2]
    return np.asarray(rows[:, 0::2] + rows[:, 1::2], np.float32)


def window_sums(image: Float32, side: int) -> Float32:
    """Return the sum of every window inside an image.

    Args:
        image: float32 [n, m].
        side: rows and columns of a window.

    Returns:
        float32 [n - side + 1, m - side + 1].
    """
    return _row_sums(_row_sums(image, side).T, side).T


def _row_sums(image: Float32, count: int) -> Float32:
    """Return the sums of ``count`` successive rows, from sums of 1, 2, 4 ... rows."""
    length = len(image) - count + 1
    sums, width, start = image, 1, 0
    total = np.zeros_like(image[:length])
    while True:
        if count & width:
            total += sums[start : start + length]
            start += width
        if 2 * width > count:
            return total
        sums = sums[:-width] + sums[width:]
        width *= 2
