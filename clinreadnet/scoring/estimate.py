"""Means of series with confidence intervals (Student's t)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
_MOST_DEGREES = 1000


@dataclass(frozen=True)
class Estimate:
    """Mean over n series with its confidence interval.

    Attributes:
        n: number of series.
        mean: mean of the values.
        low: lower bound of the 95 % confidence interval of the mean; None if n is 1.
        high: upper bound of the interval; None if n is 1.
        min: lowest value.
        max: highest value.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    min: float
    max: float


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return the mean of values [n] with its 95 % confidence interval (Student's t).

    Returns None if n is 0.
    """
    n = len(values)
    if n == 0:
        return None
    x = np.asarray(values, np.float64)
    mean, low, high = float(x.mean()), None, None
    if n > 1:
        reach = student_quantile(n - 1) * float(x.std(ddof=1)) / math.sqrt(n)
        low, high = mean - reach, mean + reach
    return Estimate(n, mean, low, high, float(x.min()), float(x.max()))


def student_quantile(degrees: int) -> float:
    """Return t such that Student's t lies in ``-t ... t`` with probability 0.95.

    The probability is a finite sum for integer degrees of freedom (Abramowitz and Stegun 26.7.3 and
    26.7.4). More than 1000 degrees count as 1000, so t is at most 0.13 % too large.

    Args:
        degrees: degrees of freedom, at least 1.
    """
    degrees = min(degrees, _MOST_DEGREES)
    odd = degrees % 2
    k = np.arange(1 + odd, degrees - 1, 2)
    ratios = np.cumprod(np.concatenate([[1.0], k / (k + 1)]))  # 1, 1/2, 3/8 ...; 1, 2/3, 8/15 ...

    def inside(t: float) -> float:
        angle = math.atan(t / math.sqrt(degrees))
        powers = math.cos(angle) ** np.arange(odd, degrees - 1 + odd, 2)
        terms = float((ratios[: len(powers)] * powers).sum())  # 0 for 1 degree of freedom
        if odd:
            return 2 / math.pi * (angle + math.sin(angle) * terms)
        return math.sin(angle) * terms

    low, high = 0.0, 16.0  # t is 12.7 for 1 degree of freedom
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < CONFIDENCE else (low, middle)
    return (low + high) / 2
