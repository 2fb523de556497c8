"""Simple slices that pass for CT."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def body(hu: float) -> NDArray[np.float32]:
    """Return a slice [512, 512]: tissue of ``hu``, 40 HU darker left than right, in air.

    Fat and a spine make it pass for an abdomen. Its last pixel is ``hu``.
    """
    image = np.full((512, 512), -1000, np.float32)
    image[16:-8, 8:-8] = -90
    image[24:-16, 16:-16] = np.linspace(hu - 40, hu + 40, 480, dtype=np.float32)
    image[400:420, 236:276] = 300
    image[-1, -1] = hu
    return image


def some_hu(n: int) -> NDArray[np.float32]:
    """Return n slices of noise, [n, 512, 512]."""
    return np.random.default_rng(n).normal(40, 300, (n, 512, 512)).astype(np.float32)
