"""Bootstrap percentile intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray


class Interval(TypedDict):
    """A value and its bootstrap percentile interval (95 %)."""

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    n: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return a statistic of n slices with its bootstrap percentile interval (95 %).

    Args:
        statistic: takes indices [n] of slices, some more than once.
        n: number of slices.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    draws = [np.arange(n), *rng.integers(0, n, size=(resamples, n))]
    return percentile_interval(np.array([statistic(draw) for draw in draws], np.float64))


def percentile_interval(values: NDArray[np.float64]) -> Interval:
    """Return the first value with the interval (95 %) of the others that are finite."""
    boot = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(boot, [2.5, 97.5]) if len(boot) else (np.nan, np.nan)
    return Interval(value=float(values[0]), low=float(low), high=float(high))
