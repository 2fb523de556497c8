"""The distance of outputs from a reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def relative_error(output: ArrayLike, reference: ArrayLike) -> float:
    """Return ‖output − reference‖ / ‖reference‖ over all elements, in float64.

    Args:
        output: any shape, any real dtype.
        reference: the same shape, float64.

    Returns:
        The error; ``inf`` if ``output`` is not finite or has another shape.
    """
    out = np.asarray(output, dtype=np.float64)
    ref = np.asarray(reference, dtype=np.float64)
    if out.shape != ref.shape or not np.isfinite(out).all():
        return float("inf")
    scale = float(np.linalg.norm(ref))
    return float(np.linalg.norm(out - ref)) / max(scale, np.finfo(np.float64).tiny)
