"""Count the pixels of a slice and measure its anatomy with the library of the CPU engine.

`clinreadnet.data.plausibility` and `clinreadnet.data.region` state what the measures mean, and
compute the same with NumPy where the library was not compiled (docs/runtime.md has the times).
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet import limits
from clinreadnet.errors import BackendUnavailable
from clinreadnet.library import instructions, load_library
from clinreadnet.spec import SIZE

_TYPES = (np.dtype(np.float32), np.dtype(np.int16))


class Survey(ctypes.Structure):
    """Measures of a slice: ``crn_survey_result`` of kernels/cpu/include/clinreadnet_ops.h."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("size", "finite")),
        *((name, ctypes.c_float) for name in ("low", "high")),
        *(
            (name, ctypes.c_uint32)
            for name in ("levels", "soft", "light", "dense", "area", "border")
        ),
        *(
            (name, ctypes.c_double)
            for name in (
                *("second", "width", "lung", "both_lungs", "fat"),
                *("bone", "side_bone", "spine", "dense_bone", "enclosed"),
            )
        ),
    )


def survey(hu: NDArray[Any], *, anatomy: bool) -> Survey | None:
    """Return the measures of a slice; None if the library is missing or does not take the slice.

    Args:
        hu: Hounsfield units [512, 512]: contiguous float32 or int16, or other integers.
        anatomy: whether to measure the largest body too. Without it, its area is 0.
    """
    if hu.shape != (SIZE, SIZE):
        return None
    if hu.dtype.kind in "iu" and hu.dtype not in _TYPES:
        hu = hu.astype(np.float32, "C")  # exact up to 2^24, far above the largest plausible value
    if hu.dtype not in _TYPES or not hu.flags.carray:
        return None
    try:
        library = load_library()
        chosen = instructions(library)
    except BackendUnavailable:
        return None
    result = Survey(size=ctypes.sizeof(Survey))
    status = library.crn_survey(
        hu.ctypes.data,
        _TYPES.index(hu.dtype),
        chosen.encode(),
        limits.LEVELS,
        anatomy,
        ctypes.byref(result),
        None,
        0,
    )
    return None if status else result
