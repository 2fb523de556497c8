"""Means of series with their confidence intervals, by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
_MOST_DEGREES = 1000


@dataclass(frozen=True)
class Estimate:
    """Mean over n series.

    Attributes:
        n: number of series.
        mean: of their values.
        low: lower end of the 95 % confidence interval of the mean; None where n is 1.
        high: upper end of it.
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
    """Return the mean of values [n] with its 95 % confidence interval, by Student's t.

    None where n is 0.
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

    The probability is the finite sum for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and
    26.7.4). More than 1000 degrees count as 1000, which makes t at most 0.13 % too large.

    Args:
        degrees: of freedom, at least 1.
    """
    degrees = min(degrees, _MOST_DEGREES)
    odd = degrees % 2
    k = np.arange(1 + odd, degrees - 1, 2)
    ratios = np.cumprod(np.concatenate([[1.0], k / (k + 1)]))  # 1, 1/2, 3/8 ...; 1, 2/3, 8/15 ...

    def inside(t: float) -> float:
        angle = math.atan(t / math.sqrt(degrees))
        powers = math.cos(angle) ** np.arange(odd, degrees - 1 + odd, 2)
        terms = float((ratios[: len(powers)] * powers).sum())  # none of 1 degree
        if odd:
            return 2 / math.pi * (angle + math.sin(angle) * terms)
        return math.sin(angle) * terms

    low, high = 0.0, 16.0  # of one degree it is 12.7
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < CONFIDENCE else (low, middle)
    return (low + high) / 2
