"""Check whether an image can be a CT slice in Hounsfield units.

The network also scores images with wrong rescale values, colours, masks or another scale. A
histogram of integer Hounsfield units detects them. Whether a CT slice resembles the training data
is decided by ``novelty``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet import limits
from clinreadnet.data.survey import survey

# In whole HU. kernels/cpu/survey.h has the same ranges.
_LIGHTEST_TISSUE, _DENSEST_TISSUE, _FAT, _BONE = -300, 400, -30, 700
_LOW, _HIGH = -1025, 3072  # the first and last bin include all values beyond


def without_body(hu: NDArray[Any]) -> bool:
    """Return whether an image shows only air and materials as light as air, such as a head holder.

    Args:
        hu: [rows, columns] finite Hounsfield units.
    """
    tissue = np.count_nonzero((hu >= _LIGHTEST_TISSUE) & (hu <= _DENSEST_TISSUE))
    light = np.count_nonzero(hu < _LIGHTEST_TISSUE)
    return bool(
        hu.min() >= limits.LEAST_HU
        and 100 * tissue < limits.SOFT_TISSUE * hu.size
        and light > 0.9 * hu.size
    )


@dataclass(frozen=True)
class PixelCounts:
    """Counts of the pixels of an image. A value counts as the whole HU that it is truncated to.

    Attributes:
        size: number of pixels.
        finite: whether no pixel is NaN or infinite. If false, the others are 0.
        low: least value in HU.
        high: largest value in HU.
        levels: number of different whole HU; at least ``limits.LEVELS`` if there are more.
        soft: pixels of -300 ... 400 HU.
        light: pixels up to -30 HU.
        dense: pixels from 700 HU.
    """

    size: int
    finite: bool
    low: float = 0.0
    high: float = 0.0
    levels: int = 0
    soft: int = 0
    light: int = 0
    dense: int = 0


def count_pixels(hu: NDArray[Any]) -> PixelCounts:
    """Count the pixels of an image.

    Args:
        hu: [rows, columns] Hounsfield units of any integer or float dtype.
    """
    native = survey(hu, anatomy=False)
    if native is not None:
        names = ("low", "high", "levels", "soft", "light", "dense")
        counts = {name: getattr(native, name) for name in names}
        return PixelCounts(hu.size, bool(native.finite), **counts)
    low, high = float(hu.min()), float(hu.max())
    if not math.isfinite(low) or not math.isfinite(high):  # the least of values with a NaN is NaN
        return PixelCounts(hu.size, False)
    with np.errstate(over="ignore"):  # values beyond float32 are clipped
        whole = np.clip(hu.astype(np.float32, copy=False), _LOW, _HIGH).astype(np.int32)
    histogram = np.bincount((whole - _LOW).ravel(), minlength=_HIGH - _LOW + 1)

    def count(first: int, last: int) -> int:
        return int(histogram[first - _LOW : last - _LOW + 1].sum())

    return PixelCounts(
        size=hu.size,
        finite=True,
        low=low,
        high=high,
        levels=int(np.count_nonzero(histogram)),
        soft=count(_LIGHTEST_TISSUE, _DENSEST_TISSUE),
        light=count(_LOW, _FAT),
        dense=count(_BONE, _HIGH),
    )


def implausible(pixels: PixelCounts) -> str | None:
    """Return why an image cannot be a CT slice; None if it can.

    The limits are in `clinreadnet.limits`.

    Args:
        pixels: counts of its pixels, all finite.
    """
    low, high = pixels.low, pixels.high
    if low == high:
        return f"blank, every pixel is {low + 0.0:g} HU"  # without the sign of -0.0
    if low < limits.LEAST_HU or high > limits.LARGEST_HU:
        return (
            f"values {low:.6g} ... {high:.6g}, "
            f"where Hounsfield units lie in {limits.LEAST_HU} ... {limits.LARGEST_HU}"
        )
    if pixels.levels < limits.LEVELS:
        return (
            f"only {pixels.levels} different values in whole HU, {low:.6g} ... {high:.6g}; "
            "a CT slice has hundreds"
        )
    soft, light, dense = (
        100 * count / pixels.size for count in (pixels.soft, pixels.light, pixels.dense)
    )
    if soft < limits.SOFT_TISSUE:
        return f"{soft:.2g} % of it in the range of soft tissue, -300 ... 400 HU"
    if light < limits.AIR_AND_FAT:
        return f"{light:.2g} % of it as light as air or fat, below -30 HU"
    if dense > limits.DENSE:
        return f"{dense:.2g} % of it denser than most bone, above 700 HU"
    return None
