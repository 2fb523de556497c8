"""Five simulated radiologists: from the measurements of an image to its mean opinion score.

The impairment is an equivalent noise in HU. It grows with each of the four measurements::

    impairment = sqrt(noise^2 + (STREAK_WEIGHT * streak)^2
                      + (EDGE_WEIGHT * edge_loss)^2 + (DETAIL_WEIGHT * detail_loss)^2)
    quality    = 4 / (1 + (impairment / HALF_QUALITY) ^ STEEPNESS)

Streaks weigh more than noise of equal power because they cross the organs as lines. Lost detail has
a weight at which a denoiser gains almost nothing: it trades noise for detail. Each radiologist then
votes a whole grade, ``round(quality + bias + Normal(0, spread))`` kept within 0...4, and the label
is the mean of the five votes, a multiple of 0.2.

The constants are calibrated to the distribution of the 1000 training labels of the LDCTIQAC 2023
challenge and to the agreement of its radiologists. They replace radiologists; they are not a model
of perception.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

STREAK_WEIGHT = 1.6
"""Noise in HU that is equivalent to 1 HU of streaks."""

EDGE_WEIGHT = 40.0
"""Noise in HU that is equivalent to losing every strong edge."""

DETAIL_WEIGHT = 90.0
"""Noise in HU that is equivalent to losing all faint structure."""

HALF_QUALITY = 54.0
"""Impairment in HU at which the quality is 2."""

STEEPNESS = 3.0
"""Exponent of the quality curve."""

# fmt: off
CHALLENGE_LABELS = (
    25, 19, 22, 42, 48, 56, 51, 65, 65, 74, 53, 56, 60, 62, 42, 65, 35, 42, 31, 51, 36
)
# fmt: on
"""How many of the challenge's 1000 training images have each label 0, 0.2, ..., 4."""

RADIOLOGISTS = ((0.20, 0.28), (0.08, 0.25), (-0.02, 0.31), (-0.10, 0.27), (-0.16, 0.34))
"""Bias and spread of each radiologist, in grades."""


def quality(
    noise_hu: ArrayLike, streak_hu: ArrayLike, edge_loss: ArrayLike, detail_loss: ArrayLike
) -> NDArray[np.float64]:
    """Return the noiseless quality 0...4, float64; it decreases in each argument.

    Args:
        noise_hu: standard deviation of the noise in even soft tissue.
        streak_hu: root mean square error of streaks.
        edge_loss: share (0...1) of the slope of strong edges that is lost.
        detail_loss: share (0...1) of the slope of faint structure that is lost.
    """
    weights = (1.0, STREAK_WEIGHT, EDGE_WEIGHT, DETAIL_WEIGHT)
    parts = (noise_hu, streak_hu, edge_loss, detail_loss)
    impairment = np.sqrt(
        sum((w * np.asarray(part, np.float64)) ** 2 for w, part in zip(weights, parts, strict=True))
    )
    return np.asarray(4.0 / (1.0 + (impairment / HALF_QUALITY) ** STEEPNESS))


def copy_quality(own: float, source: float) -> float:
    """Return the noiseless quality of a denoised copy.

    A denoiser adds no information: a copy is never better than its source.

    Args:
        own: quality by the measurements of the copy.
        source: quality of the slice that was denoised.
    """
    return min(own, source)


def votes(true_quality: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the five radiologists' whole grades ``[5]`` for a slice of the given quality."""
    bias, spread = np.array(RADIOLOGISTS).T
    heard = true_quality + bias + spread * rng.standard_normal(len(RADIOLOGISTS))
    return np.asarray(np.clip(np.rint(heard), 0, 4), np.int64)


def mean_opinion(ballots: NDArray[np.int64]) -> float:
    """Return the mean of five votes: a multiple of 0.2 with one decimal."""
    return round(float(ballots.mean()), 1)
