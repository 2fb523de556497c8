"""Check whether an image can be a CT slice in Hounsfield units.

The network also scores images with wrong rescale values, colours, masks or another scale. A
histogram of integer Hounsfield units detects them. Whether a CT slice resembles the training data
is decided by ``novelty``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet import limits

_LIGHTEST_TISSUE = -300
_LOW, _HIGH = -1025, 3072  # the first and last bin include all values beyond


def without_body(hu: NDArray[Any]) -> bool:
    """Return whether an image shows only air and materials as light as air, such as a head holder.

    Args:
        hu: [rows, columns] finite Hounsfield units.
    """
    tissue = np.count_nonzero((hu >= _LIGHTEST_TISSUE) & (hu <= 400))
    light = np.count_nonzero(hu < _LIGHTEST_TISSUE)
    return bool(
        hu.min() >= limits.LEAST_HU
        and 100 * tissue < limits.SOFT_TISSUE * hu.size
        and light > 0.9 * hu.size
    )


def implausible(hu: NDArray[Any]) -> str | None:
    """Return why an image cannot be a CT slice; None if it can.

    The limits are in `clinreadnet.limits`.

    Args:
        hu: [rows, columns] finite Hounsfield units.
    """
    low, high = float(hu.min()), float(hu.max())
    if low == high:
        return f"blank, every pixel is {low:g} HU"
    if low < limits.LEAST_HU or high > limits.LARGEST_HU:
        return (
            f"values {low:.6g} ... {high:.6g}, "
            f"where Hounsfield units lie in {limits.LEAST_HU} ... {limits.LARGEST_HU}"
        )
    whole = np.clip(hu.astype(np.float32, copy=False), _LOW, _HIGH).astype(np.int32)
    counts = np.bincount((whole - _LOW).ravel(), minlength=_HIGH - _LOW + 1)
    levels = int(np.count_nonzero(counts))
    if levels < limits.LEVELS:
        return (
            f"only {levels} different values in whole HU, {low:.6g} ... {high:.6g}; "
            "a CT slice has hundreds"
        )
    percent = 100 / hu.size

    def share(first: int, last: int) -> float:
        """Return the share of pixels in ``first`` ... ``last`` HU, in percent."""
        return float(counts[first - _LOW : last - _LOW + 1].sum() * percent)

    soft = share(_LIGHTEST_TISSUE, 400)
    if soft < limits.SOFT_TISSUE:
        return f"{soft:.2g} % of it in the range of soft tissue, -300 ... 400 HU"
    light = share(_LOW, -30)
    if light < limits.AIR_AND_FAT:
        return f"{light:.2g} % of it as light as air or fat, below -30 HU"
    dense = share(700, _HIGH)
    if dense > limits.DENSE:
        return f"{dense:.2g} % of it denser than most bone, above 700 HU"
    return None
