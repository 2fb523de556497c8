"""The clean slice before degradation, with the masks for measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from clinreadnet.simulator.denoise import non_local_means
from clinreadnet.spec import SIZE

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

AIR = -1000.0

_BODY = -300.0


@dataclass(frozen=True)
class CleanSlice:
    """A slice before degradation.

    Attributes:
        hu: ``[512, 512]`` float32 Hounsfield units; air outside the inscribed circle.
        structure: ``[512, 512]`` float32, the anatomy in ``hu``: equal to ``hu`` for a phantom, a
            denoised copy for a scanned slice.
        pixel_mm: width of a pixel in millimetres.
        tissue: ``[512, 512]`` bool, soft tissue away from edges, where noise is measured.
        body: ``[512, 512]`` bool, inside the skin.
    """

    hu: Float32
    structure: Float32
    pixel_mm: float
    tissue: Mask
    body: Mask

    @property
    def own_noise_hu(self) -> float:
        """Standard deviation of ``hu - structure`` in even tissue; 0 for a phantom."""
        own = (self.hu - self.structure)[self.tissue]
        return float(np.sqrt(np.mean(own**2))) if own.size else 0.0


def outside_circle() -> Mask:
    """Return ``[512, 512]`` bool, pixels outside the inscribed circle."""
    half = np.arange(SIZE) - SIZE // 2
    return np.asarray(np.hypot(half[None, :], half[:, None]) > SIZE // 2 - 1)


def even_tissue(structure: Float32, body: Mask) -> Mask:
    """Return ``[512, 512]`` bool, the soft tissue away from edges."""
    soft = ndi.gaussian_filter(structure, 1.5)
    even = ndi.maximum_filter(soft, 9) - ndi.minimum_filter(soft, 9) < 45
    # Exclude thin lines too, which the blur hides.
    even &= ndi.maximum_filter(np.abs(structure - soft), 3) < 30
    deep = ndi.binary_erosion(body, iterations=12)
    return np.asarray((soft > 15) & (soft < 150) & even & deep)


def scanned_slice(hu: Float32, pixel_mm: float) -> CleanSlice:
    """Prepare a scanned slice for degradation.

    The noise of the scan must not count as detail that a degradation loses. Detail is therefore
    measured on a denoised copy (non-local means), and noise in the even tissue of that copy.

    Args:
        hu: ``[512, 512]`` float32 Hounsfield units.
        pixel_mm: width of a pixel in millimetres.
    """
    hu = np.maximum(hu, np.float32(AIR))
    hu[outside_circle()] = AIR
    structure = non_local_means(hu, _own_noise(hu), 1.0)
    solid = largest_part(ndi.binary_opening(structure > _BODY, iterations=4))
    body = np.asarray(ndi.binary_fill_holes(solid), bool)
    return CleanSlice(hu, structure, pixel_mm, even_tissue(structure, body), body)


def largest_part(mask: Mask) -> Mask:
    """Return the largest connected part of a mask; an empty mask as it is."""
    parts, count = ndi.label(mask)
    if not count:
        return mask
    return np.asarray(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])))


def _own_noise(hu: Float32) -> float:
    """Return the standard deviation of a scanned slice's noise, from its flattest soft tissue."""
    mean = ndi.uniform_filter(hu, 9)
    spread = np.sqrt(np.maximum(ndi.uniform_filter(hu * hu, 9) - mean * mean, 0))
    soft = (mean > 15) & (mean < 150)
    return float(np.quantile(spread[soft], 0.25)) if soft.any() else 0.0
