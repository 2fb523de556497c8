"""Coefficients of agreement against published examples, other definitions and a package."""

from __future__ import annotations

import numpy as np
import pytest

from clinreadnet.metrics import interval, resample_counts
from clinreadnet.readers.statistics import alpha, icc, mean_kappa, weighted_kappa

# Shrout and Fleiss 1979, table 2: four judges on six targets.
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)
NAN = np.nan
# Krippendorff 2011, section C: four observers, twelve units, missing values.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T

# The data set anxiety of R's package irr: three raters of twenty people.
ANXIETY = np.array(
    [
        [3, 3, 3, 4, 5, 5, 2, 3, 5, 2, 2, 6, 1, 5, 2, 2, 1, 2, 4, 3],
        [3, 6, 4, 6, 2, 4, 2, 4, 3, 3, 2, 3, 3, 3, 2, 2, 1, 3, 3, 4],
        [2, 1, 4, 4, 3, 2, 1, 6, 1, 1, 1, 2, 3, 3, 1, 1, 3, 3, 2, 2],
    ],
    float,
).T


def once(grades: np.ndarray) -> np.ndarray:
    return np.ones((1, len(grades)))


def simulated(
    rng: np.random.Generator, slices: int, readers: int, agreement: float, bias: float = 0.0
) -> np.ndarray:
    """Return grades whose ICC(2,1) is ``agreement`` without the biases of the readers."""
    true = rng.normal(size=(slices, 1)) * np.sqrt(agreement)
    own = rng.normal(size=(slices, readers)) * np.sqrt(1 - agreement)
    return true + own + bias * rng.normal(size=(1, readers))


def test_icc_of_shrout_and_fleiss() -> None:
    assert icc(SHROUT_FLEISS, once(SHROUT_FLEISS))[0] == pytest.approx(0.29, abs=0.005)


def test_alpha_of_krippendorff() -> None:
    value = alpha(KRIPPENDORFF, once(KRIPPENDORFF))[0]
    assert value == pytest.approx(0.815, abs=0.0005)


def test_icc_and_kappa_of_the_anxiety_ratings_of_irr() -> None:
    """R's irr 0.84: icc(anxiety, "twoway", "agreement"), kappa2(anxiety[, 1:2], "squared")."""
    assert icc(ANXIETY, once(ANXIETY))[0] == pytest.approx(0.198, abs=0.0005)
    kappa = weighted_kappa(ANXIETY[:, 0], ANXIETY[:, 1], once(ANXIETY))[0]
    assert kappa == pytest.approx(0.297, abs=0.0005)


def by_table(x: np.ndarray, y: np.ndarray) -> float:
    """Return Cohen's kappa by its definition, from the table of both readers' grades."""
    values = np.unique(np.concatenate([x, y]))
    observed = np.array([[np.mean((x == a) & (y == b)) for b in values] for a in values])
    expected = np.outer([np.mean(x == a) for a in values], [np.mean(y == b) for b in values])
    weights = (values[:, None] - values[None, :]) ** 2
    return float(1 - (weights * observed).sum() / (weights * expected).sum())


@pytest.mark.parametrize("missing", [0.0, 0.3], ids=["complete", "missing"])
def test_kappa_and_alpha_of_random_grades(missing: float) -> None:
    krippendorff = pytest.importorskip("krippendorff", reason="it is in the extra dev")
    rng = np.random.default_rng(2)
    for readers in (2, 3, 5):
        grades = np.clip(np.rint(2 + simulated(rng, 60, readers, 0.6)), 0, 4)
        grades[rng.random(grades.shape) < missing] = np.nan
        expected = krippendorff.alpha(reliability_data=grades.T, level_of_measurement="ordinal")
        assert alpha(grades, once(grades))[0] == pytest.approx(expected, abs=1e-12)
        x, y = grades[:, 0], grades[:, 1]
        both = np.isfinite(x) & np.isfinite(y)
        kappa = weighted_kappa(x, y, once(grades))[0]
        assert kappa == pytest.approx(by_table(x[both], y[both]), abs=1e-12)


def test_resamples_are_what_drawing_the_slices_gives() -> None:
    rng = np.random.default_rng(4)
    grades = np.rint(2 + simulated(rng, 30, 3, 0.5))
    groups = np.repeat(np.arange(10), 3)
    counts = resample_counts(groups, resamples=20, seed=5)
    for row, count in enumerate(counts):
        drawn = np.repeat(grades, count.astype(int), axis=0)
        for measure in (icc, alpha, mean_kappa):
            assert measure(grades, counts)[row] == pytest.approx(measure(drawn, once(drawn))[0])


def test_readers_of_known_agreement() -> None:
    rng = np.random.default_rng(6)
    grades = simulated(rng, 20_000, 4, 0.55)
    assert icc(grades, once(grades))[0] == pytest.approx(0.55, abs=0.01)
    assert mean_kappa(grades, once(grades))[0] == pytest.approx(0.55, abs=0.01)
    biased = grades + [0, 1, 2, 3]  # absolute agreement: var 0.55 of 0.55 + 0.45 + var(0...3)
    expected = 0.55 / (1 + np.var([0, 1, 2, 3], ddof=1))
    assert icc(biased, once(biased))[0] == pytest.approx(expected, abs=0.01)


def test_undefined_coefficients_are_not_a_number() -> None:
    equal = np.full((8, 3), 2.0)
    apart = np.array([[1, NAN], [NAN, 2], [3, NAN], [NAN, 4]], float)
    for measure in (icc, alpha, mean_kappa):
        assert np.isnan(measure(equal, once(equal))[0])
    for measure in (alpha, mean_kappa):
        assert np.isnan(measure(apart, once(apart))[0])
    constant = np.stack([np.full(6, 2.0), np.arange(6.0)], axis=1)
    assert mean_kappa(constant, once(constant))[0] == pytest.approx(0)


@pytest.mark.parametrize(("measure", "true"), [(icc, 0.6), (mean_kappa, 0.6)])
def test_intervals_over_patients_cover_the_true_value(measure: object, true: float) -> None:
    """95 % intervals of 40 patients with three similar slices each: nominal within the error."""
    rng = np.random.default_rng(7)
    covered = []
    for _ in range(200):
        patients = rng.normal(size=(40, 1, 1)) * np.sqrt(true / 2)
        slices = rng.normal(size=(40, 3, 1)) * np.sqrt(true / 2)
        own = rng.normal(size=(40, 3, 3)) * np.sqrt(1 - true)
        grades = (patients + slices + own).reshape(120, 3)
        counts = resample_counts(np.repeat(np.arange(40), 3), resamples=400, seed=1)
        bounds = interval(measure(grades, counts))  # type: ignore[operator]
        covered.append(bounds["low"] <= true <= bounds["high"])
    assert 0.89 <= np.mean(covered) <= 0.98
