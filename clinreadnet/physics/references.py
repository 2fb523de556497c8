"""Materials of known value: air around the body and subcutaneous fat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinreadnet.data.region import CELL, FAT, spread
from clinreadnet.physics.windows import Float32
from clinreadnet.spec import HU_MIN

Mask = NDArray[np.bool_]

_AIR = (-1100.0, -900.0)  # HU
_GAP = 3  # cells between the body and the air that is measured
_DEEP_MM = 40.0  # how far below the skin fat counts as subcutaneous
_FEWEST = 20  # cells


def mean_air(cells: Float32, body: Mask, field: Mask) -> float | None:
    """Return the mean of the air around the body in HU; None without any.

    Cells beside a table, a sheet or the body are left out, and so are cells of exactly -1000 HU,
    which padding has.

    Args:
        cells: float32 [128, 128], means of cells in HU.
        body: bool [128, 128].
        field: bool [128, 128].
    """
    other = (cells < _AIR[0]) | (cells > _AIR[1])
    air = field & ~spread(body, _GAP) & ~spread(other, 1) & (cells != HU_MIN)
    return _mean(cells[air])


def mean_fat(cells: Float32, body: Mask, field: Mask, pixel_mm: float) -> float | None:
    """Return the mean of subcutaneous fat in HU; None without any.

    Args:
        cells: float32 [128, 128], means of cells in HU.
        body: bool [128, 128].
        field: bool [128, 128].
        pixel_mm: width of a pixel in mm.
    """
    other = (cells < FAT[0]) | (cells > FAT[1])
    depth = max(1, round(_DEEP_MM / (CELL * pixel_mm)))
    return _mean(cells[field & body & spread(~body & field, depth) & ~spread(other, 1)])


def _mean(values: Float32) -> float | None:
    return float(values.mean(dtype=np.float64)) if values.size >= _FEWEST else None
