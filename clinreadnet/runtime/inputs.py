"""Check of the arrays to score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.errors import (
    InputError,
)
from clinreadnet.spec import SIZE


def check_slices(hu: NDArray[Any]) -> NDArray[Any]:
    """Return ``hu`` as a checked array; arguments and errors as in `Session.score`."""
    hu = np.asarray(hu)
    if hu.ndim != 3 or hu.shape[1:] != (SIZE, SIZE):
        raise InputError(
            f"hu has shape {list(hu.shape)}, expected [n, {SIZE}, {SIZE}] Hounsfield units"
        )
    if not len(hu):
        raise InputError(f"hu has shape {list(hu.shape)}: no slice; give one or more")
    if hu.dtype.kind not in "iuf":
        raise InputError(f"hu has dtype {hu.dtype}, expected integers or floats")
    if hu.dtype.kind == "f":
        for index, one in enumerate(hu):
            if not np.isfinite(one).all():
                raise InputError(f"hu[{index}] holds NaN or infinity")
    return hu
