"""Denoisers that remove noise and detail.

Non-local means, the bilateral filter, total variation, wavelet shrinkage, and a penalised fit with
the noise texture of iterative reconstruction. They operate on the encoded range -1000...400 HU,
like on the challenge's files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage as ndi
from numpy.typing import NDArray
from skimage import restoration

from clinreadnet.spec import HU_MIN, HU_RANGE

Float32 = NDArray[np.float32]


def _encoded(hu: Float32) -> NDArray[np.float64]:
    # In float64: non-local means sums squares over the whole image.
    return np.clip((hu.astype(np.float64) - HU_MIN) / HU_RANGE, 0, 1)


def non_local_means(hu: Float32, noise_hu: float, strength: float) -> Float32:
    """Return the slice ``[n, n]`` float32 HU after non-local means.

    Args:
        hu: ``[n, n]`` float32 Hounsfield units.
        noise_hu: standard deviation of its noise.
        strength: filtering parameter h in units of the noise; around 0.8 removes most noise.
    """
    smooth = restoration.denoise_nl_means(
        _encoded(hu),
        patch_size=5,
        patch_distance=5,
        h=strength * noise_hu / HU_RANGE,
        sigma=noise_hu / HU_RANGE,
        fast_mode=True,
    )
    return np.asarray(smooth * HU_RANGE + HU_MIN, np.float32)


def bilateral(hu: Float32, noise_hu: float, strength: float) -> Float32:
    """Return the slice ``[n, n]`` float32 HU after a bilateral filter.

    Args:
        hu: ``[n, n]`` float32 Hounsfield units.
        noise_hu: standard deviation of its noise.
        strength: tolerated difference in units of the noise; around 2.5 removes most noise.
    """
    smooth = restoration.denoise_bilateral(
        _encoded(hu),
        win_size=9,
        sigma_color=strength * noise_hu / HU_RANGE,
        sigma_spatial=1.6,
        mode="edge",
    )
    return np.asarray(smooth * HU_RANGE + HU_MIN, np.float32)


def total_variation(hu: Float32, noise_hu: float, strength: float) -> Float32:
    """Return the slice ``[n, n]`` float32 HU after total variation (Chambolle 2004).

    Args:
        hu: ``[n, n]`` float32 Hounsfield units.
        noise_hu: standard deviation of its noise.
        strength: weight of the variation in units of the noise; around 1 removes most noise and
            leaves even patches.
    """
    smooth = restoration.denoise_tv_chambolle(_encoded(hu), weight=strength * noise_hu / HU_RANGE)
    return np.asarray(smooth * HU_RANGE + HU_MIN, np.float32)


# B3 spline, the low-pass filter of the undecimated wavelet transform.
_SPLINE = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
_SCALES = 3
# HU of soft tissue, in which the noise of each scale is measured.
_SOFT = (-160.0, 240.0)
# Lower quartile of the size of a standard normal number: structure enlarges the upper ones.
_QUARTILE = 0.3186


def wavelet_shrinkage(hu: Float32, noise_hu: float, strength: float) -> Float32:
    """Return the slice ``[n, n]`` float32 HU after shrinkage of its wavelet coefficients.

    The transform is undecimated (Starck, Fadili and Murtagh 2007) and the shrinkage the garrote
    (Gao 1998), which keeps strong edges. The noise of a slice is not white: that of each scale
    follows from the lower quartile of its coefficients in soft tissue.

    Args:
        hu: ``[n, n]`` float32 Hounsfield units.
        noise_hu: standard deviation of its noise, the limit of the noise of a scale.
        strength: threshold in units of the noise of each scale; around 1.5 removes most noise.
    """
    coarse = _encoded(hu) * HU_RANGE + HU_MIN
    planes = []
    for scale in range(_SCALES):
        taps = np.zeros(4 * 2**scale + 1)
        taps[:: 2**scale] = _SPLINE
        smooth = ndi.convolve1d(ndi.convolve1d(coarse, taps, 0), taps, 1)
        planes.append(coarse - smooth)
        coarse = smooth
    soft = (coarse > _SOFT[0]) & (coarse < _SOFT[1])
    out = coarse
    for plane in planes:
        spread = noise_hu
        if soft.any():
            spread = min(spread, float(np.quantile(np.abs(plane[soft]), 0.25)) / _QUARTILE)
        size = np.maximum(np.abs(plane), 1e-6)
        out = out + plane * np.maximum(1 - (strength * spread / size) ** 2, 0)
    return np.asarray(out, np.float32)


_ITERATIONS = 12
# Difference of neighbours in units of the noise above which a penalised fit keeps an edge.
_EDGE = 0.5


def penalised_fit(hu: Float32, noise_hu: float, strength: float) -> Float32:
    """Return the slice ``[n, n]`` float32 HU with the noise texture of iterative reconstruction.

    It is the image x of least ``1/2 |x - hu|^2 + strength * sum(huber(x_i - x_j))`` over neighbours
    i and j, the penalty of statistical reconstruction (Thibault et al. 2007), solved in the image:
    even tissue keeps less noise, of lower frequencies, and edges stay sharp. The minimum is
    approached by half-quadratic steps (Geman and Yang 1995).

    Args:
        hu: ``[n, n]`` float32 Hounsfield units.
        noise_hu: standard deviation of its noise.
        strength: weight of the penalty; around 3 removes most noise.
    """
    given = _encoded(hu) * HU_RANGE + HU_MIN
    rows, columns = (np.fft.fftfreq(given.shape[0]), np.fft.rfftfreq(given.shape[1]))
    laplacian = 4 - 2 * np.cos(2 * np.pi * rows)[:, None] - 2 * np.cos(2 * np.pi * columns)
    response = 1 / (1 + strength * laplacian)
    image = given
    for _ in range(_ITERATIONS):
        pull = np.zeros_like(given)
        for axis in (0, 1):
            step = np.roll(image, -1, axis) - image
            edge = step - np.clip(step, -_EDGE * noise_hu, _EDGE * noise_hu)
            pull += np.roll(edge, 1, axis) - edge
        spectrum = scipy.fft.rfft2(given + strength * pull) * response
        image = scipy.fft.irfft2(spectrum, s=given.shape)
    return np.asarray(image, np.float32)


@dataclass(frozen=True)
class Denoiser:
    """A denoiser and the range of its strength.

    Attributes:
        smooth: function of slice, noise in HU and strength.
        strengths: from a mild to a strong setting.
    """

    smooth: Callable[[Float32, float, float], Float32]
    strengths: tuple[float, float]


DENOISERS = {
    "nlm": Denoiser(non_local_means, (0.45, 1.1)),
    "bilateral": Denoiser(bilateral, (1.2, 3.5)),
    "tv": Denoiser(total_variation, (0.4, 1.3)),
    "wavelet": Denoiser(wavelet_shrinkage, (0.8, 1.8)),
    "iterative": Denoiser(penalised_fit, (0.7, 4.0)),
}
"""Denoisers by the name in a record."""
