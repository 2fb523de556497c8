"""Simple slices that pass for CT."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def body(hu: float) -> NDArray[np.float32]:
    """Return a slice [512, 512]: tissue of ``hu``, 40 HU darker left than right, under air.

    Its last pixel is ``hu``.
    """
    image = np.tile(np.linspace(hu - 40, hu + 40, 512, dtype=np.float32), (512, 1))
    image[:16] = -1000
    image[-1, -1] = hu
    return image
