"""Measure the agreement of quality maps with the tile labels of simulated slices."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from clinreadnet.metrics import Interval, bootstrap

BODY = 0.5
"""Least weight of a tile that counts as body."""

_LEAST_TILES = 8
_LEAST_SPREAD = 1e-3


class MapAgreement(TypedDict):
    """Agreement of maps with the tile labels over n slices, with 95 % bootstrap intervals."""

    correlation: Interval
    """Median over slices of the correlation of map and labels within the body."""
    rmse_ratio: Interval
    """RMSE over body tiles, relative to a constant map of the true quality."""
    rmse: float
    """RMSE over body tiles in grades."""
    slices: int


def map_errors(
    maps: NDArray[np.floating],
    truth: NDArray[np.floating],
    weight: NDArray[np.floating],
    quality: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Compare maps with the tile labels, slice by slice.

    Args:
        maps: [n, 16, 16], predicted.
        truth: [n, 16, 16], quality of each tile.
        weight: [n, 16, 16], share of body.
        quality: [n], the image's noiseless quality, for the flat map.

    Returns:
        [m, 4]: correlation, squared error of the map, squared error of a constant map, and number
        of body tiles, for slices with enough body. The correlation is NaN if the map or the labels
        are constant.
    """
    rows = []
    for predicted, true, body, image in zip(maps, truth, weight > BODY, quality, strict=True):
        if body.sum() < _LEAST_TILES:
            continue
        ours, theirs = predicted[body].astype(np.float64), true[body].astype(np.float64)
        correlation = np.nan
        if theirs.std() > _LEAST_SPREAD:
            # A constant map has no spatial information: its correlation counts as 0.
            correlation = np.corrcoef(ours, theirs)[0, 1] if ours.std() > 1e-9 else 0.0
        error, flat = float(np.mean((ours - theirs) ** 2)), float(np.mean((image - theirs) ** 2))
        rows.append((correlation, error, flat, float(body.sum())))
    return np.array(rows, np.float64).reshape(-1, 4)


def rmse_ratio(errors: NDArray[np.float64]) -> float:
    """Return the RMSE of maps relative to flat maps, of errors [m, 4] from `map_errors`."""
    error, flat, tiles = errors[:, 1:].T
    return float(np.sqrt((error * tiles).sum() / (flat * tiles).sum()))


def map_agreement(
    maps: NDArray[np.floating],
    truth: NDArray[np.floating],
    weight: NDArray[np.floating],
    quality: NDArray[np.floating],
) -> MapAgreement | None:
    """Return the agreement of maps with tile labels, or None; arguments as in `map_errors`."""
    rows = map_errors(maps, truth, weight, quality)
    if not len(rows) or np.isnan(rows[:, 0]).all():
        return None

    def correlation(chosen: NDArray[np.int64]) -> float:
        return float(np.nanmedian(rows[chosen, 0]))

    def ratio(chosen: NDArray[np.int64]) -> float:
        return rmse_ratio(rows[chosen])

    total = rows[:, 3].sum()
    return MapAgreement(
        correlation=bootstrap(correlation, len(rows)),
        rmse_ratio=bootstrap(ratio, len(rows)),
        rmse=float(np.sqrt((rows[:, 1] * rows[:, 3]).sum() / total)),
        slices=len(rows),
    )
