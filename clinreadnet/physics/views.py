"""Streaks of few views: fine texture that lies on the directions of the views.

By the Fourier slice theorem, each view of a scan fills a line through the centre of the image's
spectrum. Where the lines are farther apart than their width, the spectrum is a fan of spokes: the
texture of the image, its noise too, consists of streaks in the directions of the views.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.physics.windows import Float32
from clinreadnet.spec import SIZE

BAND_PER_MM = (0.25, 0.45)
"""Spatial frequencies that count, in cycles per mm: fine texture that soft kernels still pass."""

VIEWS = (40, 360)
"""Range of the number of views over half a turn. In most bodies, lines of more are not resolved."""

PROMINENCE = 20.0
"""Least power of a count of views over that of others nearby. Simulated scans of 720 views have up
to 13, those of 120 views at least 22, those of 240 views at least 24 unless a kernel blurs them."""

_FASTEST = 0.47  # cycles per pixel
_FEWEST = 16  # columns of the spectrum
_AXIS = 3  # rows of the spectrum beside the axis, which edges of the frame fill
_BINS = 720  # of direction, over the quarter turn around the axis
_APART, _FAR = 4, 18  # other counts of views that a count is compared with
_AROUND = (np.abs(np.arange(-_FAR, _FAR + 1)) >= _APART) / (2 * (_FAR - _APART + 1))
_LARGEST = 20.0  # power of a sample over its column's, so that edges do not dominate
_ROWS = 128  # that are transformed at once: a larger result costs more time to allocate


@cache
def _directions() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the bin of each sample [257, 512], and the samples of each column and bin.

    Samples outside the quarter turn around the axis have the last bin, ``_BINS``.
    """
    across = np.arange(SIZE // 2 + 1)[:, None]
    along = np.rint(np.fft.fftfreq(SIZE) * SIZE)[None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        turn = np.degrees(np.arctan(along / across)) + 45
    kept = (np.abs(along) < across) & (np.abs(along) > _AXIS)
    bins = np.where(kept, np.minimum(turn * _BINS / 90, _BINS - 1), _BINS).astype(np.intp)
    counts = np.zeros((len(bins) + 1, _BINS + 1), np.intp)
    for column, row in enumerate(bins):
        counts[column + 1] = counts[column] + np.bincount(row, minlength=_BINS + 1)
    return bins, counts


def find_views(hu: Float32, pixel_mm: float) -> tuple[int, float] | None:
    """Return the number of views whose streaks a slice shows; None if its pixels are too large.

    Args:
        hu: float32 [n, 512], rows of a slice that hold the body.
        pixel_mm: width of a pixel in mm.

    Returns:
        Number of views over half a turn, and the share of the fine texture that lies on their
        directions, 0 ... 1. Both are 0 if no streaks of few views are seen.
    """
    low, high = (limit * pixel_mm for limit in BAND_PER_MM)
    first, last = math.ceil(low * SIZE), int(min(high, _FASTEST) * SIZE) + 1
    if last - first < _FEWEST:
        return None
    lines = np.empty((last - first, len(hu)), np.complex64)
    for row in range(0, len(hu), _ROWS):
        part = np.fft.rfft(hu[row : row + _ROWS], axis=1)
        lines[:, row : row + _ROWS] = part[:, first:last].T
    spectrum = np.fft.fft(lines, SIZE, axis=1)
    power = np.log(spectrum.real**2 + spectrum.imag**2 + np.float32(1e-3))
    power -= power.mean(axis=1, keepdims=True)
    bins, counts = _directions()
    here = bins[first:last].ravel()
    count = (counts[last] - counts[first])[:-1]
    seen = count > 0

    def profile(samples: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(here, samples.ravel(), _BINS + 1)[:-1] / np.maximum(count, 1)

    logs = profile(power)
    logs = np.where(seen, logs - logs[seen].mean(), 0)
    periods = np.abs(np.fft.rfft(logs, 2 * _BINS)) ** 2  # by views over half a turn
    least, most = VIEWS
    near = np.convolve(periods[least - _FAR : most + 1 + _FAR], _AROUND, "valid")
    prominence = periods[least : most + 1] / near
    views = least + int(prominence.argmax())
    if prominence[views - least] < PROMINENCE:
        return 0, 0.0
    linear = profile(np.minimum(np.exp(power), np.float32(_LARGEST)))
    turns = np.exp(-2j * math.pi / (2 * _BINS) * views * np.arange(_BINS))
    return views, float(abs(np.sum(linear * turns)) / linear.sum())
