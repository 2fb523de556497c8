"""Fit a monotone map from the score to the mean grade of a site's readers.

Isotonic regression by scipy. The error is cross-validated: all slices of a patient are in one part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet._version import __version__
from clinreadnet.errors import InputError
from clinreadnet.metrics import Interval, interval, resample_counts
from clinreadnet.readers.agreement import cluster, unit
from clinreadnet.readers.labels import Reading
from clinreadnet.runtime.bundle.files import now
from clinreadnet.scoring.estimate import FEWEST
from clinreadnet.scoring.result import site_map_to_dict
from clinreadnet.scoring.site_map import SiteMap
from clinreadnet.spec import GRADE_RANGE, RESEARCH_USE

Floats = NDArray[np.float64]

_FOLDS = 10


@dataclass(frozen=True)
class Fit:
    """Result of `fit_site_map`.

    Attributes:
        site_map: the map.
        clusters: number of patients, or of slices if no patient is stated.
        by_patient: whether slices are cross-validated, and resampled, by patient.
        before: mean absolute error of the score, put linearly on the site's scale.
        after: cross-validated mean absolute error of the map.
    """

    site_map: SiteMap
    clusters: int
    by_patient: bool
    before: Interval
    after: Interval

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``--json``."""
        return {
            **(site_map_to_dict(self.site_map) or {}),
            "knots": list(zip(self.site_map.scores, self.site_map.grades, strict=True)),
            "cross_validated_by": unit(self.by_patient),
            "before": self.before,
            "after": self.after,
            "research_use": RESEARCH_USE,
        }


def fit_site_map(reading: Reading, weights_sha256: str) -> Fit:
    """Fit a map to the mean grade of each slice.

    Args:
        reading: grades and scores of the same slices.
        weights_sha256: SHA-256 of the weights that made the scores.

    Raises:
        InputError: there are fewer than ``FEWEST`` patients, or slices if no patient is stated, or
            the grades do not rise with the score.
        ModuleNotFoundError: scipy is not installed.
    """
    labels = reading.labels
    scale = labels.scale
    clusters, by_patient = cluster(reading)
    number = int(clusters.max()) + 1
    if number < FEWEST:
        raise InputError(
            f"{number} {unit(by_patient)} can be compared; a site map needs {FEWEST} or more"
        )
    score, grade = reading.score, np.nanmean(labels.grades, axis=1)
    knots = _isotonic(score, grade, scale.direction)
    if knots[1][0] == knots[1][-1]:
        raise InputError(
            "the grades do not rise with the score, so the site map would be constant; see "
            "`clinreadnet agree`, and state the `scale` if the largest grade is the worst"
        )
    part = np.random.default_rng(0).permutation(number)[clusters] % min(_FOLDS, number)
    predicted = np.empty_like(grade)
    for fold in range(min(_FOLDS, number)):
        own = part == fold
        predicted[own] = np.interp(
            score[own], *_isotonic(score[~own], grade[~own], scale.direction)
        )
    counts = resample_counts(clusters, 1000)
    sizes = counts.sum(axis=1)
    before, after = (
        interval(counts @ np.abs(values - grade) / sizes)
        for values in (np.asarray(scale.of_score(score)), predicted)
    )
    patients = {patient for patient in labels.patients if patient is not None}
    site_map = SiteMap(
        created=now(),
        clinreadnet_version=__version__,
        weights_sha256=weights_sha256,
        bad=scale.bad,
        excellent=scale.excellent,
        scores=tuple(knots[0].tolist()),
        grades=tuple(knots[1].tolist()),
        slices=len(score),
        patients=len(patients) or None,
        readers=len(labels.readers),
        folds=min(_FOLDS, number),
        mae_before=before["value"],
        mae_after=after["value"],
    )
    return Fit(site_map, number, by_patient, before, after)


def _isotonic(score: Floats, grade: Floats, direction: float) -> tuple[Floats, Floats]:
    """Return the knots of the monotone least-squares fit: scores, ascending, and grades.

    Only the ends of constant pieces are knots; between them the map is linear.
    """
    from scipy.optimize import isotonic_regression

    x, inverse, weights = np.unique(score, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, grade) / weights
    y = isotonic_regression(means, weights=weights, increasing=direction > 0).x
    kept = np.ones(len(x), bool)
    kept[1:-1] = (y[1:-1] != y[:-2]) | (y[1:-1] != y[2:])
    return np.clip(x[kept], 0, GRADE_RANGE), np.asarray(y[kept])
