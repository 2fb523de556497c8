"""Agreement of readers, for many bootstrap resamples at once.

As in `clinreadnet.metrics`, a resample is a row of counts, one for each slice. Packages with these
coefficients evaluate one sample at a time, and krippendorff and pingouin are under the GPL. The
tests compare the functions with published examples and with the package krippendorff.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_GRADES = 64
"""Different grades up to which Krippendorff's alpha is computed: a table of them squared."""


def weighted_kappa(x: Floats, y: Floats, counts: Floats) -> Floats:
    """Return Cohen's kappa with quadratic weights.

    One minus the mean squared difference over the one that is expected by chance, which is var(x) +
    var(y) + (mean(x) - mean(y))² (Fleiss and Cohen 1973, doi:10.1177/001316447303300309).

    Args:
        x: [n] grades; NaN where missing.
        y: [n] grades of another reader, of the same slices.
        counts: [r, n] number of times that a resample contains a slice.

    Returns:
        [r]; NaN without common slices, or if both readers give one grade to all slices.
    """
    both = np.isfinite(x) & np.isfinite(y)
    x, y, counts = x[both], y[both], counts[:, both]
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = counts / counts.sum(axis=1, keepdims=True)
        mean_x, mean_y = weights @ x, weights @ y
        chance = weights @ x**2 + weights @ y**2 - 2 * mean_x * mean_y
        kappa = 1 - weights @ (x - y) ** 2 / chance
    least = 1e-12 * max(np.abs(x).max(initial=0.0), np.abs(y).max(initial=0.0)) ** 2
    return np.where(chance > least, kappa, np.nan)


def mean_kappa(grades: Floats, counts: Floats) -> Floats:
    """Return the mean of `weighted_kappa` over all pairs of readers for which it is defined.

    Args:
        grades: [n, k]; NaN where missing.
        counts: [r, n].

    Returns:
        [r]
    """
    pairs = combinations(grades.T, 2)
    return mean_of_defined([weighted_kappa(first, second, counts) for first, second in pairs])


def mean_of_defined(values: list[Floats]) -> Floats:
    """Return the mean of arrays [r] without their NaN; NaN where all are."""
    stacked = np.stack(values)
    known = np.isfinite(stacked)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, stacked, 0).sum(axis=0) / known.sum(axis=0))


def icc(grades: Floats, counts: Floats) -> Floats:
    """Return ICC(2,1): two-way random effects, absolute agreement, a single reader.

    (MSR - MSE) / (MSR + (k - 1) MSE + k (MSC - MSE) / n) of the analysis of variance (Shrout and
    Fleiss 1979, doi:10.1037/0033-2909.86.2.420).

    Args:
        grades: [n, k] without NaN, k at least 2.
        counts: [r, n].

    Returns:
        [r]; NaN for a resample of fewer than two slices, or of equal grades.
    """
    k = grades.shape[1]
    n = counts.sum(axis=1)
    means = grades.mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        readers = counts @ grades / n[:, None]
        grand = readers.mean(axis=1)
        between_slices = k * (counts @ means**2 - n * grand**2)
        between_readers = n * ((readers - grand[:, None]) ** 2).sum(axis=1)
        total = (counts @ (grades**2).sum(axis=1)) - n * k * grand**2
        msr, msc = between_slices / (n - 1), between_readers / (k - 1)
        mse = np.maximum(total - between_slices - between_readers, 0) / ((n - 1) * (k - 1))
        value = (msr - mse) / (msr + (k - 1) * mse + k * (msc - mse) / n)
    return np.where(total > 1e-12 * np.abs(grades).max(initial=0.0) ** 2 * n, value, np.nan)


def alpha(grades: Floats, counts: Floats) -> Floats:
    """Return Krippendorff's alpha for ordinal grades. Missing grades are allowed.

    Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C and the ordinal
    metric: one minus the observed over the expected disagreement of pairs of grades.

    Args:
        grades: [n, k] of at most ``MOST_GRADES`` different grades; NaN where missing.
        counts: [r, n].

    Returns:
        [r]; NaN if no slice has two grades, or all grades are equal.
    """
    values = np.unique(grades[np.isfinite(grades)])
    given = (grades[:, :, None] == values).sum(axis=1).astype(np.float64)  # [n, v]
    kept = given.sum(axis=1) >= 2
    given, counts = given[kept], counts[:, kept]
    pairs = given[:, :, None] * given[:, None, :]
    pairs -= given[:, :, None] * np.eye(len(values))
    pairs /= given.sum(axis=1)[:, None, None] - 1
    v = len(values)
    coincidences = (counts @ pairs.reshape(len(given), v * v)).reshape(-1, v, v)
    margins = coincidences.sum(axis=2)  # [r, v]
    below = np.cumsum(margins, axis=1) - margins / 2
    distance = (below[:, :, None] - below[:, None, :]) ** 2
    n = margins.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (coincidences * distance).sum(axis=(1, 2))
        expected = (margins[:, :, None] * margins[:, None, :] * distance).sum(axis=(1, 2)) / (n - 1)
        return np.where(expected > 0, 1 - observed / expected, np.nan)
