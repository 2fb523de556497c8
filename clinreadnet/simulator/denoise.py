"""Denoisers that remove noise and detail: non-local means and the bilateral filter.

They operate on the encoded range -1000...400 HU, like on the challenge's files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import denoise_bilateral, denoise_nl_means

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
    smooth = denoise_nl_means(
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
    smooth = denoise_bilateral(
        _encoded(hu),
        win_size=9,
        sigma_color=strength * noise_hu / HU_RANGE,
        sigma_spatial=1.6,
        mode="edge",
    )
    return np.asarray(smooth * HU_RANGE + HU_MIN, np.float32)
