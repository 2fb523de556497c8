"""Intervals of an ablation: over seeds, and paired over seeds and slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.metrics import resampled_sums
from clinreadnet.training.ablation_table import Mean

RESAMPLES = 1000

# Two-sided 95 % quantile of Student's t by degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def mean_over_seeds(values: Sequence[float | None]) -> Mean:
    """Return the mean over seeds with its 95 % interval (Student's t)."""
    numbers = np.array(values, np.float64)
    mean, n = float(np.mean(numbers)), len(numbers)
    if n < 2:
        return Mean(mean=mean, low=None, high=None)
    quantile = _STUDENT[min(n - 1, len(_STUDENT)) - 1]
    half = quantile * float(np.std(numbers, ddof=1)) / math.sqrt(n)
    return Mean(mean=mean, low=mean - half, high=mean + half)


def difference(
    metric: str, runs: Sequence[Mapping[str, Any]], full: Sequence[Mapping[str, Any]]
) -> Mean:
    """Return the difference of a metric between a variant and the full network.

    The 95 % interval is from a paired bootstrap: each of `RESAMPLES` resamples draws seeds and
    slices with replacement, and both networks of a seed are measured on the same draw. It is
    extended to Student's t over the seeds, because resamples of few seeds vary too little. If runs
    contain no slices, it is Student's t alone. One seed has no interval.

    Args:
        metric: "sum" or "map_correlation".
        runs: content of `result.json` of the variant for each seed.
        full: the same for the full network, in the same order.
    """
    values = [
        ours["measured"][metric] - theirs["measured"][metric]
        for ours, theirs in zip(runs, full, strict=True)
        if ours["measured"][metric] is not None
    ]
    if len(values) < len(runs):
        return Mean(mean=math.nan, low=None, high=None)
    over_seeds = mean_over_seeds(values)
    if (
        over_seeds["low"] is None
        or over_seeds["high"] is None
        or not all("slices" in run for run in (*runs, *full))
    ):
        return over_seeds
    rng = np.random.default_rng(0)
    slices, seeds = len(runs[0]["slices"]["label"]), len(runs)
    draws = rng.integers(0, slices, size=(RESAMPLES, slices))
    chosen = rng.integers(0, seeds, size=(RESAMPLES, seeds))
    apart = np.stack(
        [
            _resampled(metric, ours, draws) - _resampled(metric, theirs, draws)
            for ours, theirs in zip(runs, full, strict=True)
        ]
    )  # [seeds, RESAMPLES]
    means = np.take_along_axis(apart.T, chosen, axis=1).mean(axis=1)
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return Mean(
        mean=over_seeds["mean"],
        low=min(float(low), over_seeds["low"]),
        high=max(float(high), over_seeds["high"]),
    )


def _resampled(metric: str, run: Mapping[str, Any], draws: NDArray[np.int64]) -> NDArray[Any]:
    """Return a run's metric on each draw of slices [r, n]: [r]."""
    slices = run["slices"]
    if metric == "map_correlation":
        maps = np.array(slices["map_correlation"], np.float64)
        return np.asarray(np.nanmedian(maps[draws], axis=1))
    counts = [np.bincount(draw, minlength=draws.shape[1]) for draw in draws]
    return resampled_sums(slices["score"], slices["label"], counts)
