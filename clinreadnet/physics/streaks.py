"""Streaks: noise power of even soft tissue that lies in one direction."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clinreadnet.physics.windows import SPAN, Float32, window_sums
from clinreadnet.spec import SIZE

BAND_PER_MM = (0.06, 0.25)
"""Spatial frequencies that count, in cycles per mm: slower is anatomy, faster is sampling."""

BINS = 24
"""Directions over half a turn; two neighbours make a wedge of 15 degrees."""

_SIDE = 13  # pairs of pixels; the mean of such a window is anatomy
_EVEN = 1.5  # times the median variance of windows
_FEWEST = 2000  # pairs of rows and columns

_SAMPLES = SIZE // 2
_ACROSS, _ALONG = np.fft.rfftfreq(_SAMPLES)[:, None], np.fft.fftfreq(_SAMPLES)[None, :]
_FREQUENCY = np.hypot(_ALONG, _ACROSS) / 2  # cycles per pixel
# Streaks lie across the direction of their frequency. Angles are counted counterclockwise from the
# rows, as on a screen.
_DIRECTION = (np.degrees(np.arctan2(-_ALONG, _ACROSS)) + 90) % 180
_BIN = np.minimum((_DIRECTION * BINS / 180).astype(np.intp), BINS - 1)
_WEIGHT = np.broadcast_to(np.where(_ACROSS > 0, 2.0, 1.0), _BIN.shape)


@lru_cache(maxsize=16)
def _band(pixel_mm: float) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]:
    """Return places of the spectrum in the band, with their weights and directions."""
    low, high = (limit * pixel_mm for limit in BAND_PER_MM)
    where = np.flatnonzero((_FREQUENCY >= low) & (_FREQUENCY <= high))
    return where, _WEIGHT.ravel()[where], _BIN.ravel()[where]


def find_streaks(
    pairs: Float32, inside: NDArray[np.bool_], pixel_mm: float
) -> tuple[float, float] | None:
    """Return the amplitude of streaks in HU and their direction; None without even soft tissue.

    The power spectrum of the even soft tissue is summed in wedges of direction. The amplitude is
    the root mean square of what the strongest wedge has more than the median wedge. Noise without
    a direction gives less than a twentieth of its standard deviation.

    Args:
        pairs: float32 [n, m], `pair_sums` of HU less ``MIDDLE``; at most [256, 256].
        inside: bool [n, m], pairs of rows and columns inside the body.
        pixel_mm: width of a pixel in mm.

    Returns:
        Amplitude in HU, and direction in degrees, 0 along rows, 90 along columns, counterclockwise.
    """
    means = pairs / np.float32(4)
    count, half = np.float32(_SIDE**2), _SIDE // 2
    middle = window_sums(means, _SIDE) / count
    variance = window_sums(means * means, _SIDE) / count - middle * middle
    part = slice(half, -half)
    soft = inside[part, part] & (np.abs(middle) <= SPAN)
    if np.count_nonzero(soft) < _FEWEST:
        return None
    even = soft & (variance <= _EVEN * np.median(variance[soft][::4]))
    residual = (means[part, part] - middle) * even
    where, weights, bins = _band(pixel_mm)
    columns = where[-1] // _SAMPLES + 1  # the band holds no others
    lines = np.fft.rfft(residual, _SAMPLES, axis=1)[:, :columns].T
    spectrum = np.fft.fft(np.ascontiguousarray(lines), _SAMPLES, axis=1).ravel()[where]
    sums = np.bincount(bins, (spectrum.real**2 + spectrum.imag**2) * weights, BINS)
    wedges = sums + np.roll(sums, -1)
    best = int(wedges.argmax())
    extra = max(float(wedges[best] - np.median(wedges)), 0.0)
    amplitude = math.sqrt(extra / _SAMPLES**2 / np.count_nonzero(even))
    return amplitude, ((best + 1) * 180 / BINS) % 180
