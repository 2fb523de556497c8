"""Percentiles and intervals of repeated times: no random numbers, no assumed distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MAX_VARIATION = 0.05
"""Coefficient of variation above which a row is marked."""


def percentile(times: Sequence[float], percent: float) -> float:
    """Return a percentile of ``times`` [n], linear between its neighbours."""
    return float(np.percentile(times, percent))


def variation(times: Sequence[float]) -> float:
    """Return the coefficient of variation of ``times`` [n]: standard deviation over mean."""
    return float(np.std(times, ddof=1) / np.mean(times)) if len(times) > 1 else 0.0


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return an interval that holds the true median with at least 95 %.

    Its ends are order statistics: how many of n values lie below the median is binomial, whatever
    they are distributed like. Below 6 values no such interval reaches 95 %: it is then all of them.

    Args:
        values: [n], n at least 1.
    """
    ordered = sorted(values)
    n = len(ordered)
    outside, skip = 0.0, 0
    for k in range(n // 2):
        outside += 2 * math.comb(n, k) / 2**n
        if outside > 0.05:
            break
        skip = k
    return ordered[skip], ordered[n - 1 - skip]


def paired_ratio(
    baseline: Sequence[float], candidate: Sequence[float]
) -> tuple[float, float, float]:
    """Return the median of baseline / candidate, round by round, with its interval.

    Args:
        baseline: seconds [n], and
        candidate: seconds [n] of the same rounds, so that what slowed both cancels.

    Returns:
        Value, low, high; above 1 the candidate is the faster one.
    """
    ratios = [b / c for b, c in zip(baseline, candidate, strict=True)]
    return (percentile(ratios, 50), *median_interval(ratios))
