"""Size-specific dose estimate of the trunk.

Sources: AAPM Report 204, "Size-specific dose estimates (SSDE) in pediatric and adult body CT
examinations" (2011), whose factors AAPM Report 220 (2014) takes for the water-equivalent diameter,
and AAPM Report 293 (2019), which adds others for the head.
"""

from __future__ import annotations

import math

_FACTORS = {32.0: (3.704369, 0.03671937), 16.0: (1.874799, 0.03871313)}
_DIAMETERS = (8.0, 45.0)  # cm, of the tables


def conversion_factor(diameter_cm: float, phantom_cm: float) -> float | None:
    """Return the SSDE per CTDIvol; None outside the range of the report's tables.

    Args:
        diameter_cm: water-equivalent diameter of the trunk.
        phantom_cm: diameter of the phantom that CTDIvol refers to, 16 or 32.
    """
    if not _DIAMETERS[0] <= diameter_cm <= _DIAMETERS[1]:
        return None
    scale, slope = _FACTORS[phantom_cm]
    return scale * math.exp(-slope * diameter_cm)
