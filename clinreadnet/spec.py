"""The image encoding and the grades, shared by the network, the data readers and the runtime.

Reference: Lee et al., "Low-dose computed tomography perceptual image quality assessment", Medical
Image Analysis 99:103343 (2025), the LDCTIQAC 2023 challenge.
"""

from __future__ import annotations

SIZE = 512
"""Rows and columns of an input slice."""

TILE = 32
"""Side in pixels of the tiles of a quality map."""

MAP_SIDE = SIZE // TILE
"""Rows and columns of a quality map."""

HU_MIN = -1000.0
"""Hounsfield units encoded as 0."""

HU_RANGE = 1400.0
"""Hounsfield units between the encoded values 0 and 1 (window width 1400, level -300)."""

FINE_GRADES = 21
"""Number of fine grades 0, 0.2, ..., 4: the mean of five radiologists on the five-point scale."""

FINE_STEP = 0.2
"""Distance between neighbouring fine grades."""

LIKERT = ("bad", "poor", "fair", "good", "excellent")
"""Words of the five-point scale, from grade 0."""

NOT_GRADED = "not graded"
"""In place of a word for a slice that the network cannot judge."""

GRADE_RANGE = float(len(LIKERT) - 1)
"""Range of the scores in grades."""

INTERVAL_MASS = 0.9
"""Probability inside the interval of a score."""

RESEARCH_USE = "Research use only: not a medical device."
"""Text that is shown with all scores."""


OUTPUTS = ("score", "probs", "quality_map", "novelty")
"""Names of the outputs, in order."""


def grade_word(score: float) -> str:
    """Return the word of the Likert grade nearest to ``score`` (0...4)."""
    return LIKERT[min(max(int(score + 0.5), 0), len(LIKERT) - 1)]
