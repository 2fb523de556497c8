"""Global noise level: the mode of local standard deviations in soft tissue.

Source: O. Christianson, J. Winslow, D. P. Frush, E. Samei, "Automated technique to measure noise in
clinical CT examinations", American Journal of Roentgenology 205 (2015) W93-W99.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from clinreadnet.physics.windows import SPAN, Float32, pair_sums, window_sums

KERNEL_MM = 6.0
"""Side of the windows in mm, rounded to an even number of pixels."""

_SIDES = (4, 24)  # pixels
_UNSIZED = 8  # pixels, if the size of a pixel is not known
_FEWEST = 500  # windows; each adds 4 pixels
_LEAST = 0.2  # HU; image noise below the rounding to whole HU cannot be measured
_STEP, _STEPS = 0.02, 400  # of the logarithm of the standard deviation, from _LEAST on
_BLUR = 4  # steps: half of the spread that the sampling of 8x8 pixels makes


def kernel_pixels(pixel_mm: float | None) -> int:
    """Return the side of a window in pixels, an even number."""
    if pixel_mm is None:
        return _UNSIZED
    return int(np.clip(2 * round(KERNEL_MM / (2 * pixel_mm)), *_SIDES))


def global_noise(
    centred: Float32, pairs: Float32, inside: NDArray[np.bool_], side: int
) -> float | None:
    """Return the global noise level in HU; None without enough soft tissue.

    The windows whose mean lies in ``SOFT_TISSUE`` are counted by the logarithm of their standard
    deviation (of n - 1), and the counts divided by the width of their bins. The mode of white noise
    is sqrt((n - 2) / (n - 1)) of its standard deviation, which is corrected. Edges add to the
    standard deviation of their windows, and do not move the mode.

    Args:
        centred: float32 [2 n, 2 m], HU less ``MIDDLE``.
        pairs: float32 [n, m], their `pair_sums`.
        inside: bool [n, m], pairs of rows and columns inside the body.
        side: side of a window in pixels, even.
    """
    half, count = side // 2, float(side * side)
    mean = window_sums(pairs, half) / count
    squares = window_sums(pair_sums(centred * centred), half)
    first, last = half // 2, half // 2 - half + 1  # of the centres of the windows
    soft = inside[first : last or None, first : last or None]
    soft = soft & (np.abs(mean) <= SPAN)
    variance = (squares[soft] - count * mean[soft] ** 2) / (count - 1)
    if variance.size < _FEWEST:
        return None
    steps = np.log(np.maximum(variance * np.float32(_LEAST**-2), 1)) * np.float32(0.5 / _STEP)
    bins = steps.astype(np.intp)
    counts = np.bincount(np.minimum(bins, _STEPS - 1), minlength=_STEPS).astype(np.float64)
    if counts[0] > counts.sum() / 2:
        return 0.0
    counts[0] = 0
    offsets = np.arange(-4 * _BLUR, 4 * _BLUR + 1)
    smooth = np.convolve(counts, np.exp(-((offsets / _BLUR) ** 2) / 2), mode="same")
    density = np.log(np.maximum(smooth, 1e-9)) - _STEP * np.arange(_STEPS)  # per HU
    peak = int(np.clip(density.argmax(), 1, _STEPS - 2))
    below, at, above = density[peak - 1 : peak + 2]
    bend = below - 2 * at + above
    shift = (below - above) / (2 * bend) if bend < 0 else 0.0
    mode = _LEAST * math.exp(_STEP * (peak + 0.5 + shift))
    return float(mode * math.sqrt((count - 1) / (count - 2)))
