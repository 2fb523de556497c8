"""Intervals and Likert probabilities of distributions over the fine grades."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clinreadnet.spec import FINE_GRADES, FINE_STEP, INTERVAL_MASS, LIKERT

Floats = NDArray[np.float64]


def grade_interval(probs: ArrayLike, mass: float = INTERVAL_MASS) -> tuple[Floats, Floats]:
    """Return the central interval of distributions over the fine grades.

    Args:
        probs: [n, 21], probability of each grade 0, 0.2, ..., 4.
        mass: probability inside the interval.

    Returns:
        The lowest and the highest grade [n] of the interval.
    """
    below = np.cumsum(np.asarray(probs, np.float64), axis=-1)
    tail = (1 - mass) / 2
    # The first grade at which the cumulative sum reaches the tail; the total may differ from 1.
    low = (below < tail).sum(axis=-1)
    high = np.minimum((below < 1 - tail).sum(axis=-1), below.shape[-1] - 1)
    return low * FINE_STEP, high * FINE_STEP


def likert_probabilities(probs: ArrayLike) -> Floats:
    """Return the probability of each Likert grade: the sum over the fine grades nearest to it.

    Args:
        probs: [..., 21], probability of each grade 0, 0.2, ..., 4.

    Returns:
        float64 [..., 5].
    """
    fine = np.asarray(probs, np.float64)
    nearest = (np.arange(FINE_GRADES) + 2) // 5  # of grade k / 5; never a tie
    return np.asarray(fine @ (nearest[:, None] == np.arange(len(LIKERT))))


def coverage(probs: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of labels [n] inside the intervals of their distributions [n, 21]."""
    return float(np.mean(covered(probs, labels)))


def covered(probs: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    """Return which labels [n] lie inside the intervals of their distributions [n, 21]."""
    low, high = grade_interval(probs)
    true = np.asarray(labels, np.float64)
    # Labels and grades are multiples of 0.2, up to rounding.
    return np.asarray((true > low - 0.01) & (true < high + 0.01))
