"""How far an artifact's outputs may be from the float64 reference, by precision.

One table, used by the exporter's verification and by the start-up self-test of a `Session`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

OUTPUTS = ("score", "probs", "quality_map")
"""Names of the graph's outputs, in order."""

BUDGETS = {
    "fp32": 1e-5,
    "tf32": 1e-3,
    "fp16": 5e-3,
    "bf16": 3e-2,
    "int8": 5e-2,
    "fp8": 5e-2,
}
"""Largest ``relative_error`` accepted for every output, by precision."""


def relative_error(output: ArrayLike, reference: ArrayLike) -> float:
    """Return ‖output − reference‖ / ‖reference‖ over all elements, in float64.

    Args:
        output: any shape, any real dtype.
        reference: the same shape, float64.

    Returns:
        The error; ``inf`` where ``output`` is not finite or has another shape.
    """
    out = np.asarray(output, dtype=np.float64)
    ref = np.asarray(reference, dtype=np.float64)
    if out.shape != ref.shape or not np.isfinite(out).all():
        return float("inf")
    scale = float(np.linalg.norm(ref))
    return float(np.linalg.norm(out - ref)) / max(scale, np.finfo(np.float64).tiny)
