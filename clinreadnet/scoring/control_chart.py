"""Control chart of individual values, to detect drift of a process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RUN = 9
"""Successive points on one side of the centre line that count as a run (Nelson 1984, test 2)."""

FEWEST = 10
"""Points below which `clinreadnet summarize` makes no chart."""

FEW = 20
"""Points below which the limits are uncertain."""

_D2 = 2 / math.sqrt(math.pi)  # mean range of two standard normal values: 1.128
_ROUNDING = 1e-9  # so that equal points are not outside limits of width zero


@dataclass(frozen=True)
class ControlChart:
    """Individuals chart of n points in order of time.

    Attributes:
        centre: mean of the points.
        lower: lower limit, ``centre`` minus three standard deviations, or the least value possible.
        upper: upper limit, likewise.
        outside: indices of the points outside the limits.
        runs: first and last index of each run of at least ``RUN`` points on one side of ``centre``.
    """

    centre: float
    lower: float
    upper: float
    outside: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]


def individuals_chart(
    values: Sequence[float], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> ControlChart:
    """Return the individuals chart (X of an X-mR chart) of values in order of time.

    The limits are ``mean(x) ± 3 MR / d2``. MR is the mean of the moving ranges ``|x[i] - x[i -
    1]|``, and d2 = 1.128 is the mean range of two normal values with standard deviation 1, so the
    limits are ``mean(x) ± 2.66 MR`` (Shewhart 1931; ISO 7870-2; Montgomery, Introduction to
    Statistical Quality Control, chapter 6). Moving ranges measure the variation from point to point
    and are hardly affected by a slow drift, so the points of a drift exceed the limits.

    Args:
        values: [n], n at least 2.
        bounds: least and largest value possible; a limit beyond is moved there, which changes
            nothing of what lies outside.

    Raises:
        ValueError: fewer than two values.
    """
    x = np.asarray(values, np.float64)
    if len(x) < 2:
        raise ValueError(f"{len(x)} values; a control chart needs 2 or more")
    centre = float(x.mean())
    reach = 3 * float(np.abs(np.diff(x)).mean()) / _D2
    outside = np.flatnonzero(np.abs(x - centre) > reach + _ROUNDING)
    side = np.where(np.abs(x - centre) <= _ROUNDING, 0, np.sign(x - centre))
    return ControlChart(
        centre,
        max(centre - reach, bounds[0]),
        min(centre + reach, bounds[1]),
        tuple(outside.tolist()),
        tuple(_runs(side.tolist())),
    )


def _runs(side: Sequence[float]) -> list[tuple[int, int]]:
    """Return the first and last index of each run. A point on the centre line ends a run."""
    runs = []
    first = 0
    for here in range(1, len(side) + 1):
        if here == len(side) or side[here] != side[first]:
            if side[first] != 0 and here - first >= RUN:
                runs.append((first, here - 1))
            first = here
    return runs
