"""Means of series with their confidence intervals, by Student's t on a scale without ends.

An interval of a mean in 0 ... 4 that is symmetric about it can leave 0 ... 4. So it is computed for
the logit of the mean, with the delta method, and transformed back (as ``svyciprop`` does in R's
survey package). For a mean that has no upper end, such as CTDIvol, the logarithm takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

CONFIDENCE = 0.95
FEWEST = 5
"""Series from which a mean has an interval."""
_MOST_DEGREES = 1000


@dataclass(frozen=True)
class Estimate:
    """Mean over n series with its confidence interval.

    Attributes:
        n: number of series.
        mean: mean of the values.
        low: lower bound of the 95 % interval of the mean; None below ``FEWEST`` series.
        high: upper bound of the interval; None likewise.
        min: lowest value.
        max: highest value.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    min: float
    max: float


def estimate(values: Sequence[float], largest: float = math.inf) -> Estimate | None:
    """Return the mean of values [n] with its 95 % confidence interval.

    Args:
        values: [n], each 0 ... ``largest``.
        largest: what the values, and therefore the interval, cannot exceed.

    Returns:
        The estimate, whose interval lies inside 0 ... ``largest``; None if n is 0.
    """
    n = len(values)
    if n == 0:
        return None
    x = np.asarray(values, np.float64)
    mean, low, high = float(x.mean()), None, None
    if n >= FEWEST:
        low, high = mean, mean  # at an end of the range all values are equal
        if 0 < mean < largest:
            reach = student_quantile(n - 1) * float(x.std(ddof=1)) / math.sqrt(n)
            low, high = (_moved(mean, largest, by) for by in (-reach, reach))
    return Estimate(n, mean, low, high, float(x.min()), float(x.max()))


def _moved(mean: float, largest: float, by: float) -> float:
    """Return ``mean`` moved by about ``by``, on the scale of its logit or logarithm."""
    if largest == math.inf:
        return mean * math.exp(by / mean)
    share = mean / largest
    odds = (1 - share) / share * math.exp(-by / largest / (share * (1 - share)))
    return largest / (1 + odds)


@cache
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
