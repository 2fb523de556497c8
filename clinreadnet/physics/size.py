"""Water-equivalent diameter, and how far the reconstructed field cuts the body.

Source: AAPM Report 220, "Use of water equivalent diameter for calculating patient size and
size-specific dose estimates (SSDE) in CT" (2014).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.data.region import CELL, spread
from clinreadnet.physics.windows import Float32
from clinreadnet.spec import HU_MIN, SIZE

CUT_MARK = 0.01
"""Share of the field's border inside the body from which on a slice counts as cut."""

CUT_MOST = 0.1
"""Share of the field's border inside the body above which there is no diameter."""

Mask = NDArray[np.bool_]
_HALF = SIZE // 2
_LEAST_RADIUS = 0.95 * _HALF  # of a circular field; a smaller circle is a body in clipped air


def _squared_radius(at: NDArray[Any]) -> Float32:
    return np.asarray(at[:, None] ** 2 + at[None, :] ** 2, np.float32)


_PIXELS = _squared_radius(np.arange(SIZE) - _HALF + 0.5).ravel()
_OUTER = np.flatnonzero(_PIXELS >= _LEAST_RADIUS**2)
_RADII = _PIXELS[_OUTER]  # squared
_CORNERS = _squared_radius(
    np.abs(np.arange(0, SIZE, CELL) - _HALF + CELL / 2) + CELL / 2
)  # the farthest corner of each cell


def find_field(hu: Float32) -> Mask:
    """Return the cells that are reconstructed as a whole, bool [128, 128].

    Scanners fill what lies outside the circle of reconstruction with one value, and `load` replaces
    padding by one value. If the corners hold one value, the field is the smallest circle that
    contains every other value; otherwise it is the square.

    Args:
        hu: float32 [512, 512].
    """
    corner = hu[0, 0]
    if not all((part == corner).all() for part in (hu[:CELL, :CELL], hu[-CELL:, -CELL:])):
        return np.ones(_CORNERS.shape, np.bool_)
    radius = float(np.max(_RADII * (hu.ravel()[_OUTER] != corner)))
    return _CORNERS <= radius + 1 if radius else np.ones(_CORNERS.shape, np.bool_)


def cut_share(body: Mask, field: Mask) -> float:
    """Return the share of the field's border that lies in the body, 0 ... 1.

    Args:
        body: bool [128, 128].
        field: bool [128, 128], from `find_field`.
    """
    border = field & spread(~field, 1, border=True)
    return float(np.count_nonzero(body & border) / np.count_nonzero(border))


def water_diameter(cells: Float32, body: Mask, field: Mask, pixel_mm: float) -> float:
    """Return the water-equivalent diameter in cm.

    Dw = 2 sqrt(sum(HU / 1000 + 1) area / pi) over the body and one cell around it, which holds
    the skin's partial pixels. Air adds nothing.

    Args:
        cells: float32 [128, 128], means of cells in HU.
        body: bool [128, 128].
        field: bool [128, 128].
        pixel_mm: width of a pixel in mm.
    """
    water = float(np.sum(cells[spread(body, 1) & field] - HU_MIN, dtype=np.float64)) / -HU_MIN
    return 2 * math.sqrt(max(water, 0.0) * (CELL * pixel_mm) ** 2 / math.pi) / 10
