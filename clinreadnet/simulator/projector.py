"""Parallel-beam projector and filtered back-projection on the CPU (numba).

Geometry and filters are those of scikit-image's ``radon(circle=True)`` and ``iradon``: the image is
square, the centre of rotation is pixel ``n // 2``, a detector cell is one pixel wide, and the image
is zero outside the inscribed circle. Views are spaced evenly over half a turn.

Several sinograms of the same geometry are back-projected together: the kernel reads eight
interleaved channels at each detector position, so that a noise-free and four noisy
reconstructions cost about as much as one.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from clinreadnet.errors import InputError

Float32 = NDArray[np.float32]

_CHANNELS = 8
# Zero padding for interpolation: a ray can leave the circle by less than two pixels.
_MARGIN = 3


def view_angles(views: int) -> NDArray[np.float64]:
    """Return ``[views]`` angles in radians, evenly over [0, pi)."""
    return np.arange(views, dtype=np.float64) * (math.pi / views)


@numba.njit(cache=True, fastmath=True, nogil=True)  # type: ignore[untyped-decorator]
def _forward_kernel(
    padded: Float32, cosines: Float32, sines: Float32, radius: float, out: Float32
) -> None:
    views, size = out.shape
    centre = size // 2
    offset = np.float32(centre + _MARGIN)
    for view in range(views):
        c = cosines[view]
        s = sines[view]
        for cell in range(size):
            x = np.float32(cell - centre)
            chord = radius * radius - x * x
            total = np.float32(0.0)
            if chord > 0.0:
                half = int(math.sqrt(chord)) + 1
                first = max(-half, -centre)
                last = min(half, size - 1 - centre)
                base_column = c * x + offset
                base_row = -s * x + offset
                for step in range(first, last + 1):
                    y = np.float32(step)
                    column = base_column + s * y
                    row = base_row + c * y
                    j = int(column)
                    i = int(row)
                    u = column - np.float32(j)
                    v = row - np.float32(i)
                    top = padded[i, j] + u * (padded[i, j + 1] - padded[i, j])
                    low = padded[i + 1, j] + u * (padded[i + 1, j + 1] - padded[i + 1, j])
                    total += top + v * (low - top)
            out[view, cell] = total


@numba.njit(cache=True, fastmath=True, nogil=True)  # type: ignore[untyped-decorator]
def _back_kernel(padded: Float32, cosines: Float32, sines: Float32, out: Float32) -> None:
    size = out.shape[0]
    centre = size // 2
    offset = np.float32(centre + _MARGIN)
    for row in range(size):
        y = np.float32(row - centre)
        chord = centre * centre - (row - centre) * (row - centre)
        if chord < 0:
            continue
        half = int(math.sqrt(chord))
        first = max(centre - half, 0)
        last = min(centre + half, size - 1)
        for view in range(padded.shape[0]):
            c = cosines[view]
            base = offset - y * sines[view]
            line = padded[view]
            for column in range(first, last + 1):
                t = base + c * np.float32(column - centre)
                k = int(t)
                w = t - np.float32(k)
                for channel in range(_CHANNELS):
                    left = line[k, channel]
                    out[row, column, channel] += left + w * (line[k + 1, channel] - left)


def forward_project(image: Float32, views: int) -> Float32:
    """Project an image along parallel rays.

    Args:
        image: ``[n, n]`` float32, zero outside the inscribed circle.
        views: number of angles over half a turn.

    Returns:
        Line integrals ``[views, n]`` float32, in units of ``image`` times pixels.

    Raises:
        InputError: the image is not square, or not zero outside the circle.
    """
    if image.ndim != 2 or image.shape[0] != image.shape[1]:
        raise InputError(f"the projector needs a square image, not {image.shape}")
    size = image.shape[0]
    centre = size // 2
    rows, columns = np.nonzero(image)
    # Rays are traced only inside the object; an abdomen leaves much of the circle empty.
    reach = float(np.hypot(rows - centre, columns - centre).max()) if rows.size else 0.0
    if reach > centre + 1e-6:
        raise InputError("the projector needs an image that is zero outside the inscribed circle")
    angles = view_angles(views)
    out = np.empty((views, size), np.float32)
    padded = np.pad(np.asarray(image, np.float32), _MARGIN + 1)[1:, 1:]
    _forward_kernel(
        padded,
        np.cos(angles).astype(np.float32),
        np.sin(angles).astype(np.float32),
        reach + 2.0,
        out,
    )
    return out


def ramp_filter(size: int) -> Float32:
    """Return the ramp filter for FFTs of length ``size``, as the transform of its spatial form.

    This band-limited form (Kak and Slaney, chapter 3) keeps reconstructed values unbiased.

    Returns:
        ``[size // 2 + 1]`` float32, for the non-negative frequencies.
    """
    odd = np.concatenate(
        (np.arange(1, size / 2 + 1, 2, dtype=int), np.arange(size / 2 - 1, 0, -2, dtype=int))
    )
    kernel = np.zeros(size)
    kernel[0] = 0.25
    kernel[1::2] = -1.0 / (np.pi * odd) ** 2
    return np.asarray(2.0 * np.real(scipy.fft.rfft(kernel)), np.float32)


def channel_filters(size: int, channels: int, windows: Float32 | None) -> Float32:
    """Return the filter of each channel ``[channels, size // 2 + 1]`` float32.

    Args:
        size: FFT length.
        channels: number of channels.
        windows: ``[size // 2 + 1]`` or ``[channels, size // 2 + 1]``, multiplied with the ramp;
            None uses the bare ramp.
    """
    ramp = ramp_filter(size)
    filters = ramp if windows is None else ramp * windows
    return np.asarray(np.broadcast_to(filters, (channels, len(ramp))), np.float32)


def filter_length(size: int) -> int:
    """Return the FFT length for a detector of ``size`` cells, which avoids wrap-around."""
    return max(64, 1 << math.ceil(math.log2(2 * size)))


def back_project(sinograms: Float32, windows: Float32 | None = None) -> Float32:
    """Reconstruct images by filtered back-projection.

    Args:
        sinograms: ``[channels, views, n]`` float32 line integrals of equal geometry.
        windows: frequency windows for FFTs of ``filter_length(n)``, one for all channels or one for
            each; None uses the bare ramp.

    Returns:
        ``[channels, n, n]`` float32, zero outside the inscribed circle.
    """
    channels, views, size = sinograms.shape
    length = filter_length(size)
    responses = channel_filters(length, channels, windows)
    angles = view_angles(views)
    cosines = np.cos(angles).astype(np.float32)
    sines = np.sin(angles).astype(np.float32)
    images = np.empty((channels, size, size), np.float32)
    for start in range(0, channels, _CHANNELS):
        group = sinograms[start : start + _CHANNELS]
        spectrum = scipy.fft.rfft(group, n=length, axis=-1)
        filtered = scipy.fft.irfft(
            spectrum * responses[start : start + _CHANNELS, None], n=length, axis=-1
        )[..., :size]
        padded = np.zeros((views, size + 2 * _MARGIN, _CHANNELS), np.float32)
        padded[:, _MARGIN : _MARGIN + size, : len(group)] = np.moveaxis(filtered, 0, -1)
        out = np.zeros((size, size, _CHANNELS), np.float32)
        _back_kernel(padded, cosines, sines, out)
        images[start : start + _CHANNELS] = np.moveaxis(out, -1, 0)[: len(group)]
    images *= np.float32(math.pi / (2 * views))
    return images
