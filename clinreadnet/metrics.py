"""PLCC, SROCC and KROCC of predicted and true scores, with bootstrap intervals.

The challenge's figure of merit is the sum of the three absolute values (Lee et al. 2025). All three
are computed with integer weights per slice: a bootstrap resample is a row of counts, and the whole
bootstrap is a few matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Interval(TypedDict):
    """A value and its bootstrap percentile interval (95 %)."""

    value: float
    low: float
    high: float


class Correlations(TypedDict):
    """Metrics of the challenge, each with its interval."""

    plcc: Interval
    srocc: Interval
    krocc: Interval
    sum: Interval


def plcc(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's linear correlation of two vectors [n]; NaN if one is constant."""
    return float(_pearson(*_pair(x, y))[0])


def srocc(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation of two vectors [n]; ties have their mean rank."""
    return float(_spearman(*_pair(x, y))[0])


def krocc(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's tau-b of two vectors [n]."""
    return float(_kendall(*_pair(x, y))[0])


def correlations(
    predicted: ArrayLike,
    true: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Correlations:
    """Compute the challenge's metrics with bootstrap percentile intervals (95 %).

    Args:
        predicted: [n] scores.
        true: [n] scores.
        groups: [n] group of each slice, 0 ... g - 1, such as its patient; whole groups are
            resampled. Default: each slice is a group.
        resamples: bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        plcc, srocc, krocc and the sum of their absolute values. NaN if a vector is constant.
        Resamples in which a vector is constant are excluded from the interval.

    Raises:
        ValueError: the lengths differ or are less than two.
    """
    x, y, _ = _pair(predicted, true)
    weights = resample_counts(np.arange(len(x)) if groups is None else groups, resamples, seed)
    values = resampled_correlations(x, y, weights)
    total = sum(np.abs(v) for v in values.values())
    return Correlations(
        plcc=interval(values["plcc"]),
        srocc=interval(values["srocc"]),
        krocc=interval(values["krocc"]),
        sum=interval(np.asarray(total)),
    )


def resample_counts(groups: ArrayLike, resamples: int = 2000, seed: int = 0) -> Floats:
    """Return how often each slice is in the sample and in its bootstrap resamples.

    Args:
        groups: [n] group of each slice, 0 ... g - 1; a resample draws g whole groups.
        resamples: number of resamples r.
        seed: seed of the resampling.

    Returns:
        float64 [1 + r, n]; the first row, the sample itself, is 1.
    """
    members = np.asarray(groups, np.int64)
    n = int(members.max()) + 1
    draws = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    counts = np.stack([np.ones(n), *(np.bincount(draw, minlength=n) for draw in draws)])
    return np.asarray(counts[:, members], np.float64)


def resampled_correlations(
    predicted: ArrayLike, true: ArrayLike, counts: ArrayLike
) -> dict[str, Floats]:
    """Return the correlations of several resamples of the same slices.

    Args:
        predicted: [n] scores.
        true: [n] scores.
        counts: [r, n], number of times that a resample contains a slice.

    Returns:
        plcc, srocc and krocc, each [r]; NaN if a vector is constant in a resample.
    """
    x, y, _ = _pair(predicted, true)
    weights = np.asarray(counts, np.float64)
    measures = {"plcc": _pearson, "srocc": _spearman, "krocc": _kendall}
    return {name: measure(x, y, weights) for name, measure in measures.items()}


def resampled_sums(predicted: ArrayLike, true: ArrayLike, counts: ArrayLike) -> Floats:
    """Return |PLCC| + |SROCC| + |KROCC| [r]; arguments as in `resampled_correlations`."""
    values = resampled_correlations(predicted, true, counts).values()
    return sum((np.abs(value) for value in values), np.zeros(1))


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], n: int) -> Interval:
    """Return a statistic of n slices with its bootstrap percentile interval (95 %).

    Args:
        statistic: function of indices [n] of slices, which can repeat.
        n: number of slices.
    """
    rng = np.random.default_rng(0)
    draws = [np.arange(n), *rng.integers(0, n, size=(1000, n))]
    return interval(np.array([statistic(draw) for draw in draws], np.float64))


def interval(values: Floats) -> Interval:
    """Return the first of values [1 + r] with the 95 % percentile interval of the others.

    Values that are not finite are excluded from the interval.
    """
    boot = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(boot, [2.5, 97.5]) if len(boot) else (np.nan, np.nan)
    return Interval(value=float(values[0]), low=float(low), high=float(high))


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats, Floats]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError(f"need two vectors of one length >= 2, got {a.shape} and {b.shape}")
    return a, b, np.ones((1, len(a)))


def _pearson(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Weighted Pearson correlation for each row of ``weights`` [r, n]; x, y are [n] or [r, n]."""
    weights = weights / weights.sum(axis=1, keepdims=True)
    dx = x - (weights * x).sum(axis=1, keepdims=True)
    dy = y - (weights * y).sum(axis=1, keepdims=True)
    covariance = (weights * dx * dy).sum(axis=1)
    variance = (weights * dx**2).sum(axis=1) * (weights * dy**2).sum(axis=1)
    # The variance of a constant vector is not exactly zero.
    scale = (np.abs(x).max() * np.abs(y).max() * np.finfo(np.float64).eps * 8) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(variance > scale, covariance / np.sqrt(variance), np.nan)


def _spearman(x: Floats, y: Floats, weights: Floats) -> Floats:
    def ranks(v: Floats) -> Floats:
        below = weights @ (v[:, None] < v[None, :])
        equal = weights @ (v[:, None] == v[None, :])
        return below + (equal + 1) / 2

    return _pearson(ranks(x), ranks(y), weights)


def _kendall(x: Floats, y: Floats, weights: Floats) -> Floats:
    sign_x, sign_y = np.sign(x[:, None] - x[None, :]), np.sign(y[:, None] - y[None, :])

    def pairs(matrix: Floats) -> Floats:
        return np.asarray(((weights @ matrix) * weights).sum(axis=1))

    untied = pairs(np.abs(sign_x)) * pairs(np.abs(sign_y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(untied > 0, pairs(sign_x * sign_y) / np.sqrt(untied), np.nan)
