"""Size-specific dose estimate: factors from CTDIvol to the dose of a body of a size.

Sources: AAPM Report 204, "Size-specific dose estimates (SSDE) in pediatric and adult body CT
examinations" (2011), for the trunk, whose factors AAPM Report 220 (2014) takes for the
water-equivalent diameter; AAPM Report 293, "Size specific dose estimate (SSDE) for head CT" (2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from clinreadnet.data.region import HEAD, TRUNK


@dataclass(frozen=True)
class Conversion:
    """SSDE / CTDIvol = scale exp(-slope Dw), with the water-equivalent diameter Dw in cm.

    Attributes:
        name: report, part and phantom.
        scale: factor.
        slope: per cm.
        least: smallest diameter in cm, of the report's table.
        most: largest diameter in cm.
    """

    name: str
    scale: float
    slope: float
    least: float = 0.0
    most: float = math.inf

    def factor(self, diameter_cm: float) -> float | None:
        """Return the SSDE per CTDIvol; None outside the report's table."""
        if not self.least <= diameter_cm <= self.most:
            return None
        return self.scale * math.exp(-self.slope * diameter_cm)


HEAD_CONVERSION = Conversion("AAPM 293, head, 16 cm phantom", 1.9852, 0.0486)

CONVERSIONS = {
    (TRUNK, 32.0): Conversion("AAPM 204, 32 cm phantom", 3.704369, 0.03671937, 8, 45),
    (TRUNK, 16.0): Conversion("AAPM 204, 16 cm phantom", 1.874799, 0.03871313, 6, 55),
    (HEAD, 16.0): HEAD_CONVERSION,
}
"""The conversions by part of the body and diameter in cm of the phantom of CTDIvol."""
