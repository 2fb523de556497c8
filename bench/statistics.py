"""Percentiles and distribution-free intervals of repeated times."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MAX_VARIATION = 0.05
"""Largest coefficient of variation without a mark."""


def percentile(times: Sequence[float], percent: float) -> float:
    """Return a percentile of ``times`` [n] with linear interpolation."""
    return float(np.percentile(times, percent))


def variation(times: Sequence[float]) -> float:
    """Return the coefficient of variation of ``times`` [n]: standard deviation over mean."""
    return float(np.std(times, ddof=1) / np.mean(times)) if len(times) > 1 else 0.0


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return an interval that holds the true median with at least 95 %.

    The bounds are order statistics: the number of values below the median is binomial for any
    distribution. With fewer than 6 values no interval reaches 95 %, and the range is returned.

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
        baseline: seconds [n].
        candidate: seconds [n] of the same rounds, so that common disturbances cancel.

    Returns:
        Value, low, high. Above 1 the candidate is faster.
    """
    ratios = [b / c for b, c in zip(baseline, candidate, strict=True)]
    return (percentile(ratios, 50), *median_interval(ratios))
