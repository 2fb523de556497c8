"""Control chart of individual values, to detect drift of a process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

RULES = {1: (1, 1, 3), 2: (2, 3, 2), 3: (4, 5, 1), 4: (8, 8, 0)}
"""Rules of Western Electric (Statistical Quality Control Handbook, 1956), by their number: at least
m of n successive points lie more than k standard deviations from the centre, on one side."""

RUN = RULES[4][0]
"""Successive points on one side of the centre line that count as a run."""

FALSE_ALARMS = (
    "without drift, rule 1 marks 0.27 % of days, and the first mark of any rule comes "
    "after 92 days on average"
)
"""False alarms of normally distributed values with known limits (Champ and Woodall,
Technometrics 29, 393, 1987: an average run length of 91.75)."""

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
        outside: indices of the points outside the limits: rule 1 of ``RULES``.
        runs: first and last index of each run of at least ``RUN`` points on one side of ``centre``:
            rule 4.
        signals: index and rule of each point that completes a pattern of ``RULES``, in order.
    """

    centre: float
    lower: float
    upper: float
    outside: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]
    signals: tuple[tuple[int, int], ...]

    def marked(self, rule: int) -> list[tuple[int, int]]:
        """Return the first and last index of successive points that a rule marks."""
        spans: list[tuple[int, int]] = []
        for index, own in self.signals:
            if own != rule:
                continue
            if spans and spans[-1][1] == index - 1:
                spans[-1] = spans[-1][0], index
            else:
                spans.append((index, index))
        return spans


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
    deviation = float(np.abs(np.diff(x)).mean()) / _D2
    reach = 3 * deviation
    signals = find_signals(x - centre, deviation)
    side = np.where(np.abs(x - centre) <= _ROUNDING, 0, np.sign(x - centre))
    return ControlChart(
        centre,
        max(centre - reach, bounds[0]),
        min(centre + reach, bounds[1]),
        tuple(index for index, rule in signals if rule == 1),
        tuple(_runs(side.tolist())),
        signals,
    )


def find_signals(x: NDArray[np.float64], deviation: float) -> tuple[tuple[int, int], ...]:
    """Return the index and rule of each point that completes a pattern of ``RULES``, in order.

    Args:
        x: [n], distances from the centre in order of time.
        deviation: standard deviation of ``x`` without drift.
    """
    found = []
    for side in (1, -1):
        for rule, (least, of, reach) in RULES.items():
            beyond = side * x > reach * deviation + _ROUNDING
            counts = np.convolve(beyond, np.ones(of, np.int64))[: len(x)]
            found += [
                (index, rule) for index in np.flatnonzero(beyond & (counts >= least)).tolist()
            ]
    return tuple(sorted(found))


def _runs(side: Sequence[float]) -> list[tuple[int, int]]:
    """Return the first and last index of each run. A point on the centre line ends a run."""
    runs, first = [], 0
    for where, points in groupby(side):
        after = first + len(list(points))
        if where != 0 and after - first >= RUN:
            runs.append((first, after - 1))
        first = after
    return runs
