"""A phantom, and whether engines build here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinreadnet.runtime.backends.flavours import FlavourMissing, load_flavour

RTX_MISSING: str | None = None
"""Why engines cannot be built here."""
try:
    load_flavour("tensorrt-rtx")
except FlavourMissing as missing:
    RTX_MISSING = str(missing)


def disc(noise: float, seed: int = 0) -> NDArray[np.float32]:
    """Return a body of soft tissue in air with noise in HU: [512, 512]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-256:256, -256:256]
    hu = np.where(x**2 + y**2 < 200**2, 40.0, -1000.0) + rng.normal(0, noise, x.shape)
    return hu.astype(np.float32)
