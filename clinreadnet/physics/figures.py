"""Measure the figures of a slice. docs/physics.md has formulas, sources and limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.data.acquisition import Acquisition
from clinreadnet.data.region import CELL, TRUNK, Cells, find_cells
from clinreadnet.physics.dose import CONVERSIONS
from clinreadnet.physics.noise import global_noise, kernel_pixels
from clinreadnet.physics.references import mean_air, mean_fat
from clinreadnet.physics.size import CUT_MOST, cut_share, find_field, water_diameter
from clinreadnet.physics.streaks import find_streaks
from clinreadnet.physics.views import find_views
from clinreadnet.physics.windows import MIDDLE, SOFT_TISSUE, pair_sums

_MARGIN = 3  # cells that half a window reaches beyond the body


@dataclass(frozen=True)
class SliceFigures:
    """Figures of one slice. A figure that cannot be had is None, and ``missing`` says why.

    Attributes:
        noise_hu: global noise level in HU (Christianson 2015).
        noise_kernel_mm: side of the windows of the noise in mm; None if the size of a pixel is not
            known, and the side is 8 pixels.
        water_diameter_cm: water-equivalent diameter in cm (AAPM 220) of the body, arms included.
        ssde_mgy: size-specific dose estimate in mGy.
        ssde_conversion: name of the conversion from CTDIvol, see `CONVERSIONS`.
        cut: share of the border of the reconstructed field that lies in the body, 0 ... 1.
        air_hu: mean of the air around the body in HU.
        fat_hu: mean of subcutaneous fat in HU.
        streak_hu: amplitude of streaks in HU: root mean square of the strongest direction.
        streak_deg: that direction in degrees, 0 along rows, 90 along columns, counterclockwise.
        views: number of views over half a turn whose streaks the slice shows; 0 if none are seen.
        view_share: share of the fine texture that lies on the directions of these views, 0 ... 1.
        missing: why figures are None, such as "ssde_mgy: CTDIvol is not stated"; empty if all are
            measured.
    """

    noise_hu: float | None = None
    noise_kernel_mm: float | None = None
    water_diameter_cm: float | None = None
    ssde_mgy: float | None = None
    ssde_conversion: str | None = None
    cut: float | None = None
    air_hu: float | None = None
    fat_hu: float | None = None
    streak_hu: float | None = None
    streak_deg: float | None = None
    views: float | None = None
    view_share: float | None = None
    missing: str = ""


def measure_figures(
    hu: NDArray[Any], pixel_mm: float | None = None, cells: Cells | None = None
) -> SliceFigures:
    """Measure a slice, but for its dose, which `with_dose` adds.

    Args:
        hu: [512, 512], Hounsfield units, finite.
        pixel_mm: width of a pixel in mm. Without it only noise, cut and air are measured.
        cells: result of `find_cells` for the slice, if you have it.
    """
    hu = np.asarray(hu, np.float32)
    body = (find_cells(hu) if cells is None else cells).body
    if not body.any():
        return SliceFigures(missing="all: no body")
    reasons: dict[str, str] = {}
    field = find_field(hu)
    means = pair_sums(pair_sums(hu)) / np.float32(CELL**2)
    box, pixels = _around(body)
    inside = body[box].repeat(2, axis=0).repeat(2, axis=1)
    centred = hu[pixels] - np.float32(MIDDLE)
    pairs = pair_sums(centred)
    side = kernel_pixels(pixel_mm)
    noise = global_noise(centred, pairs, inside, side)
    if noise is None:
        reasons["noise_hu"] = f"no soft tissue of {SOFT_TISSUE[0]:.0f} to {SOFT_TISSUE[1]:.0f} HU"
    air = mean_air(means, body, field)
    if air is None:
        reasons["air_hu"] = "no air around the body"
    cut = cut_share(body, field)
    diameter = fat = streaks = views = None
    if pixel_mm is None:
        names = ("water_diameter_cm", "fat_hu", "streak_hu", "views")
        reasons |= dict.fromkeys(names, "the size of a pixel is not known")
    else:
        if cut > CUT_MOST:
            reasons["water_diameter_cm"] = "the field cuts the body"
        else:
            diameter = water_diameter(means, body, field, pixel_mm)
        fat = mean_fat(means, body, field, pixel_mm)
        if fat is None:
            reasons["fat_hu"] = "no subcutaneous fat"
        streaks = find_streaks(pairs, inside, pixel_mm)
        if streaks is None:
            reasons["streak_hu"] = "no even soft tissue"
        views = find_views(hu[pixels[0]], pixel_mm)
        if views is None:
            reasons["views"] = "the pixels are too large"
    return SliceFigures(
        noise_hu=noise,
        noise_kernel_mm=None if pixel_mm is None else side * pixel_mm,
        water_diameter_cm=diameter,
        cut=cut,
        air_hu=air,
        fat_hu=fat,
        streak_hu=streaks[0] if streaks else None,
        streak_deg=streaks[1] if streaks else None,
        views=float(views[0]) if views else None,
        view_share=views[1] if views else None,
        missing=_joined(reasons),
    )


def with_dose(figures: SliceFigures, acquisition: Acquisition, part: str = TRUNK) -> SliceFigures:
    """Return figures with the size-specific dose estimate of the slice, or why it has none.

    Args:
        figures: from `measure_figures`.
        acquisition: CTDIvol of the slice, and the phantom that it refers to.
        part: `Region.part` of the slice. Neither trunk nor head has no conversion.
    """
    ctdi, phantom = acquisition.ctdi_vol_mgy, acquisition.ctdi_phantom_cm
    diameter = figures.water_diameter_cm
    conversion = None if phantom is None else CONVERSIONS.get((part, phantom))
    factor = None
    if not part:
        reason = "it shows neither trunk nor head"
    elif diameter is None:
        reason = "no water-equivalent diameter"
    elif not ctdi:
        reason = "CTDIvol is not stated"
    elif phantom is None:
        reason = "the phantom of CTDIvol is not stated"
    elif conversion is None:
        reason = "AAPM 293 converts CTDIvol of the 16 cm phantom alone"
    else:
        factor = conversion.factor(diameter)
        reason = "its diameter is outside the tables of AAPM 204"
    if factor is None or ctdi is None or conversion is None:
        parts = (figures.missing, _joined({"ssde_mgy": reason}))
        return replace(figures, missing="; ".join(filter(None, parts)))
    return replace(figures, ssde_mgy=factor * ctdi, ssde_conversion=conversion.name)


def _around(body: NDArray[np.bool_]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the box of cells around the body that windows reach, and its pixels."""
    used = [np.flatnonzero(body.any(axis=axis)) for axis in (1, 0)]
    ends = [(max(int(u[0]) - _MARGIN, 0), int(u[-1]) + 1 + _MARGIN) for u in used]
    return (
        tuple(slice(first, last) for first, last in ends),
        tuple(slice(CELL * first, CELL * last) for first, last in ends),
    )


def _joined(reasons: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
