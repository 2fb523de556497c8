"""Agreement of readers with each other and with the score: `clinreadnet agree`.

Slices of a patient resemble each other, so the bootstrap draws whole patients where the labels
state them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.errors import counted
from clinreadnet.files import AnyPath
from clinreadnet.metrics import Interval, interval, resample_counts, resampled_correlations
from clinreadnet.readers.labels import FACTS, Reading, Scale, read_files
from clinreadnet.readers.statistics import (
    MOST_GRADES,
    Floats,
    alpha,
    icc,
    mean_kappa,
    mean_of_defined,
    weighted_kappa,
)
from clinreadnet.scoring.estimate import CONFIDENCE, FEWEST
from clinreadnet.spec import RESEARCH_USE

SCORE = "score"
"""Name of the score among readers."""
MEASURES = ("plcc", "srocc", "krocc", "mae", "kappa")
"""Measures of the score, in the order of tables."""
_RESAMPLES = 1000
_NORMAL = 1.96  # standard deviations of limits of agreement
_NAMED = 3  # slices that a note names
_PARTS = 3  # groups of a size that is a number


@dataclass(frozen=True)
class Pair:
    """Two readers, or a reader and the score, on the slices that both graded.

    For kappa the score is rounded if all grades are whole.

    Attributes:
        first: a reader.
        second: another reader, or "score".
        slices: number of common slices.
        kappa: quadratically weighted kappa; NaN if undefined.
        bias: mean of second minus first, on the site's scale.
        low: lower limit of agreement, bias - 1.96 standard deviations (Bland and Altman 1986).
        high: upper limit of agreement.
    """

    first: str
    second: str
    slices: int
    kappa: float
    bias: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """The score on the slices of a scanner, protocol or size.

    Attributes:
        by: scanner, protocol or size.
        name: its value.
        slices: number of slices.
        clusters: number of patients, or of slices if no patient is stated.
        score: measures, as in `Agreement`; None with fewer than ``FEWEST`` clusters.
    """

    by: str
    name: str
    slices: int
    clusters: int
    score: dict[str, Interval] | None


@dataclass(frozen=True)
class Agreement:
    """Result of `agree`. Values that are not defined are NaN.

    Attributes:
        reading: the grades and the scores.
        clusters: number of patients, or of slices if no patient is stated.
        by_patient: whether intervals are over patients.
        among: kappa (mean over pairs of readers), icc (ICC(2,1)) and alpha (Krippendorff's,
            ordinal) of the readers; empty with one reader.
        complete: slices that all readers graded, which ICC(2,1) uses.
        score: plcc, srocc, krocc and mae of score and mean grade, kappa (mean over readers) of
            score and reader.
        reader: the same for a reader and the mean grade of the others, mean over readers, without
            intervals; empty with one reader.
        pairs: every two readers, then every reader with the score.
        groups: the score by scanner, protocol and size.
        notes: what a reader of the result has to know, a line each.
    """

    reading: Reading
    clusters: int
    by_patient: bool
    among: dict[str, Interval]
    complete: int
    score: dict[str, Interval]
    reader: dict[str, float]
    pairs: tuple[Pair, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...]

    @property
    def mean_grade(self) -> Floats:
        """Mean grade of each slice over its readers, [n]."""
        return np.asarray(np.nanmean(self.reading.labels.grades, axis=1))

    @property
    def scaled_score(self) -> Floats:
        """Score of each slice on the site's scale, linear from end to end, [n]."""
        return np.asarray(self.reading.labels.scale.of_score(self.reading.score))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``--json``."""
        labels = self.reading.labels
        return {
            "slices": len(labels.names),
            "readers": list(labels.readers),
            "scale": asdict(labels.scale),
            "clusters": self.clusters,
            "intervals_over": unit(self.by_patient),
            "confidence": CONFIDENCE,
            "fewest_clusters": FEWEST,
            "weights_sha256": self.reading.weights_sha256,
            "unmatched": list(self.reading.unmatched),
            "novel": self.reading.novel,
            "complete_slices": self.complete,
            "among_readers": self.among,
            "score_with_readers": self.score,
            "reader_with_others": self.reader,
            "pairs": [asdict(pair) for pair in self.pairs],
            "groups": [asdict(group) for group in self.groups],
            "notes": list(self.notes),
            "research_use": RESEARCH_USE,
        }


def unit(by_patient: bool) -> str:
    """Return what the bootstrap draws."""
    return "patients" if by_patient else "slices"


def agree(labels: AnyPath, scores: AnyPath, scale: Scale | None = None) -> Agreement:
    """Compare readers with each other and with the score.

    Args:
        labels: CSV file of grades (see `clinreadnet.readers.labels`).
        scores: file of `score --csv`, `score --json` or `score-archive`.
        scale: the site's scale; default 0 (bad) ... 4 (excellent).

    Raises:
        InputError: as in `read_files`.
    """
    return compare(read_files(labels, scores, scale))


def compare(reading: Reading) -> Agreement:
    """Compare the readers and the score of a reading."""
    labels = reading.labels
    grades, score = labels.grades, np.asarray(labels.scale.of_score(reading.score))
    clusters, by_patient = cluster(reading)
    number = int(clusters.max()) + 1
    counts = resample_counts(clusters, _RESAMPLES)
    complete = np.isfinite(grades).all(axis=1)
    among: dict[str, Interval] = {}
    if len(labels.readers) > 1:
        among["kappa"] = _bounded(mean_kappa(grades, counts), number)
        if complete.sum() > 1:
            whole = int(np.unique(clusters[complete]).size)
            among["icc"] = _bounded(icc(grades[complete], counts[:, complete]), whole)
        if np.unique(grades[np.isfinite(grades)]).size <= MOST_GRADES:
            among["alpha"] = _bounded(alpha(grades, counts), number)
    groups = tuple(group for fact in FACTS for group in _groups(reading, score, fact, clusters))
    result = Agreement(
        reading,
        number,
        by_patient,
        among,
        int(complete.sum()),
        _measures(score, grades, counts, number),
        _reader_measures(grades) if len(labels.readers) > 1 else {},
        _pairs(labels.readers, grades, score),
        groups,
        (),
    )
    return replace(result, notes=tuple(_notes(result)))


def cluster(reading: Reading) -> tuple[NDArray[np.int64], bool]:
    """Return the cluster of each slice, 0 ... c - 1, and whether the clusters are patients.

    A slice whose patient is not stated is a cluster of its own.
    """
    patients = reading.labels.patients
    keys = [
        f"slice {index}" if patient is None else f"patient {patient}"
        for index, patient in enumerate(patients)
    ]
    inverse = np.unique(keys, return_inverse=True)[1]
    return inverse.astype(np.int64), any(patient is not None for patient in patients)


def _bounded(values: Floats, clusters: int) -> Interval:
    """Return a value with its interval, which is NaN with fewer than ``FEWEST`` clusters."""
    found = interval(values)
    return found if clusters >= FEWEST else Interval(value=found["value"], low=np.nan, high=np.nan)


def _measures(score: Floats, grades: Floats, counts: Floats, clusters: int) -> dict[str, Interval]:
    """Return the measures of scores [n] on the site's scale and grades [n, k]."""
    mean = np.nanmean(grades, axis=1)
    values = resampled_correlations(score, mean, counts)
    values["mae"] = counts @ np.abs(score - mean) / counts.sum(axis=1)
    rounded = _as_graded(score, grades)
    values["kappa"] = mean_of_defined([weighted_kappa(rounded, own, counts) for own in grades.T])
    return {name: _bounded(values[name], clusters) for name in MEASURES}


def _as_graded(score: Floats, grades: Floats) -> Floats:
    """Return scores as a reader could have given them: rounded, if all grades are whole."""
    given = grades[np.isfinite(grades)]
    return np.rint(score) if (given == np.rint(given)).all() else score


def _reader_measures(grades: Floats) -> dict[str, float]:
    """Return the measures of each reader and the mean of the others, averaged over readers."""
    values: dict[str, list[float]] = {name: [] for name in MEASURES}
    for own in range(grades.shape[1]):
        others = np.delete(grades, own, axis=1)
        both = np.isfinite(grades[:, own]) & np.isfinite(others).any(axis=1)
        if both.sum() < 2:
            continue
        x, y = grades[both, own], np.nanmean(others[both], axis=1)
        once = np.ones((1, len(x)))
        for name, value in resampled_correlations(x, y, once).items():
            values[name].append(float(value[0]))
        values["mae"].append(float(np.abs(x - y).mean()))
    values["kappa"] = [float(mean_kappa(grades, np.ones((1, len(grades))))[0])]
    return {
        name: float(np.mean(known)) if (known := [v for v in own if np.isfinite(v)]) else np.nan
        for name, own in values.items()
    }


def _pairs(readers: Sequence[str], grades: Floats, score: Floats) -> tuple[Pair, ...]:
    columns = dict(zip(readers, grades.T, strict=True))
    pairs = [_pair(a, b, columns[a], columns[b]) for a, b in combinations(readers, 2)]
    rounded = _as_graded(score, grades)
    pairs += [_pair(name, SCORE, own, score, rounded) for name, own in columns.items()]
    return tuple(pairs)


def _pair(first: str, second: str, x: Floats, y: Floats, graded: Floats | None = None) -> Pair:
    difference = (y - x)[np.isfinite(x) & np.isfinite(y)]
    n = len(difference)
    kappa = float(weighted_kappa(x, y if graded is None else graded, np.ones((1, len(x))))[0])
    bias = float(difference.mean()) if n else np.nan
    reach = _NORMAL * float(difference.std(ddof=1)) if n > 1 else np.nan
    return Pair(first, second, n, kappa, bias, bias - reach, bias + reach)


def _groups(reading: Reading, score: Floats, fact: str, clusters: NDArray[np.int64]) -> list[Group]:
    values = reading.labels.facts[fact]
    if fact == "size":
        values = _parts(values)
    names = sorted({value for value in values if value is not None}, key=_order)
    if len(names) < 2 and None not in values:
        return []  # the group would be all slices
    groups = []
    for name in names:
        own = np.array([value == name for value in values])
        members = np.unique(clusters[own], return_inverse=True)[1]
        number = int(members.max()) + 1
        measures = None
        if number >= FEWEST:
            counts = resample_counts(members, _RESAMPLES)
            measures = _measures(score[own], reading.labels.grades[own], counts, number)
        groups.append(Group(fact, name, int(own.sum()), number, measures))
    return groups


def _parts(values: Sequence[str | None]) -> tuple[str | None, ...]:
    """Return the values; of many different numbers, the third of the slices that each is in."""
    try:
        numbers = [float(value) for value in values if value is not None]
    except ValueError:
        return tuple(values)
    if len(set(numbers)) <= _PARTS or not np.isfinite(numbers).all():
        return tuple(values)
    edges = np.quantile(numbers, np.linspace(0, 1, _PARTS + 1))

    def part(number: float) -> str:
        index = min(int(np.searchsorted(edges[1:], number)), _PARTS - 1)
        return f"{edges[index]:.4g} ... {edges[index + 1]:.4g}"

    return tuple(None if value is None else part(float(value)) for value in values)


def _order(name: str) -> tuple[float, str]:
    try:
        return float(name.split()[0]), name
    except (ValueError, IndexError):
        return np.inf, name


def _notes(result: Agreement) -> list[str]:
    reading, labels = result.reading, result.reading.labels
    n = len(labels.names)
    lines = []
    if reading.unmatched:
        names = ", ".join(reading.unmatched[:_NAMED])
        more = " ..." if len(reading.unmatched) > _NAMED else ""
        lines.append(f"{len(reading.unmatched)} graded slices have no score: {names}{more}")
    if reading.novel:
        lines.append(
            f"{counted(reading.novel, 'graded slice', verb='is')} marked as novel and left out"
        )
    if not result.by_patient:
        lines.append(
            "no patient is stated: intervals are over slices, and too narrow if patients have "
            "several; add a column patient"
        )
    elif None in labels.patients:
        missing = labels.patients.count(None)
        lines.append(f"{counted(missing, 'slice', n, verb='has')} no patient stated")
    if result.clusters < FEWEST:
        lines.append(f"fewer than {FEWEST} {unit(result.by_patient)}: no intervals")
    if len(labels.readers) == 1:
        lines.append("a single reader: no agreement among readers")
    elif result.complete < n:
        lines.append(
            f"{counted(result.complete, 'slice', n, verb='was')} graded by all readers; ICC uses "
            "only these"
        )
    among = [pair for pair in result.pairs if pair.second != SCORE]
    if among and not any(pair.slices for pair in among):
        lines.append("no two readers graded the same slice: no agreement among readers")
    for name, own in zip(labels.readers, labels.grades.T, strict=True):
        given = np.unique(own[np.isfinite(own)])
        if len(given) < 2:
            what = "no slice" if not len(given) else f"every slice {given[0]:g}"
            lines.append(f"{name} gave {what}")
    if len(labels.readers) > 1 and "alpha" not in result.among:
        lines.append(f"more than {MOST_GRADES} different grades: no Krippendorff's alpha")
    if result.score["srocc"]["high"] < 0:
        lines.append(
            "grades fall as scores rise: if the largest grade is the worst, state the scale so, "
            "as --scale 5:1"
        )
    if small := sum(group.score is None for group in result.groups):
        lines.append(
            f"{counted(small, 'group', len(result.groups), verb='has')} fewer than {FEWEST} "
            f"{unit(result.by_patient)} and no values"
        )
    return lines
