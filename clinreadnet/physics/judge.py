"""Compare the figures of a slice with its dose and with its score.

The constants are fitted to simulated slices (docs/physics.md), not to scanned ones.
"""

from __future__ import annotations

import math

import numpy as np

from clinreadnet.data.acquisition import Acquisition
from clinreadnet.physics.figures import SliceFigures

DENOISED = 0.4
"""Share of the expected noise below which a slice looks denoised: 1 of 100 simulated scans that are
not denoised has less, with kernels from soft to bone."""

MARGIN = 0.5
"""How far a score lies outside those of simulated slices of its noise before it is remarked."""

# noise_hu = _SCALE exp(_PER_CM Dw) / sqrt(CTDIvol thickness), in HU, cm, mGy and mm
_SCALE, _PER_CM = 3.16, 0.087
_MGY_PER_MAS = 0.07  # of the body phantom at 120 kV, if CTDIvol is not stated
_HEAD_TO_BODY = 0.5  # CTDIvol of the body phantom over that of the head phantom

# Noise in HU, and 2 % and 98 % of the scores of simulated scans that are not denoised.
_SCORES = (
    (8.0, 3.90, 3.98),
    (12.0, 3.90, 3.96),
    (17.0, 3.59, 3.92),
    (24.0, 2.80, 3.73),
    (34.0, 1.55, 3.32),
    (48.0, 0.80, 2.74),
    (68.0, 0.28, 1.55),
    (100.0, 0.06, 0.56),
)


def expected_noise(figures: SliceFigures, acquisition: Acquisition) -> float | None:
    """Return the noise in HU that a slice of this size and dose has with a standard kernel.

    CTDIvol counts as that of the body phantom if no phantom is stated. Without CTDIvol it is
    estimated from the exposure. None without diameter, dose or thickness.

    Args:
        figures: water-equivalent diameter.
        acquisition: CTDIvol or exposure, and slice thickness.
    """
    dose, thickness = acquisition.ctdi_vol_mgy, acquisition.thickness_mm
    if dose and acquisition.ctdi_phantom_cm == 16:
        dose *= _HEAD_TO_BODY
    if not dose:
        dose = (acquisition.exposure_mas or 0) * _MGY_PER_MAS
    if figures.water_diameter_cm is None or not dose or not thickness:
        return None
    return _SCALE * math.exp(_PER_CM * figures.water_diameter_cm) / math.sqrt(dose * thickness)


def remark(figures: SliceFigures, acquisition: Acquisition, score: float) -> str:
    """Return what about a slice of the abdomen is unlike others of its noise; empty if nothing is.

    Args:
        figures: of the slice.
        acquisition: of the slice.
        score: its score, 0 bad ... 4 excellent.
    """
    noise = figures.noise_hu
    if noise is None:
        return ""
    remarks = []
    expected = expected_noise(figures, acquisition)
    if expected is not None and noise < DENOISED * expected:
        remarks.append(
            f"looks denoised: noise of {noise:.1f} HU, where {expected:.1f} is expected for its "
            "size and dose"
        )
    level, low, high = np.transpose(_SCORES)
    if score < np.interp(noise, level, low) - MARGIN:
        remarks.append(f"low score for its noise of {noise:.1f} HU")
    elif score > np.interp(noise, level, high) + MARGIN:
        remarks.append(f"high score for its noise of {noise:.1f} HU")
    return "; ".join(remarks)
