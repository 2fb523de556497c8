import numpy as np
import pytest
from scipy import stats

from clinreadnet.metrics import correlations, krocc, plcc, resample_counts, srocc

RNG = np.random.default_rng(0)
CASES = {
    "no-ties": (RNG.normal(size=50), RNG.normal(size=50)),
    "ties": (RNG.integers(0, 4, 80) / 5, RNG.integers(0, 6, 80) / 5),
    "two-points": (np.array([1.0, 2.0]), np.array([3.0, 1.0])),
    "offset": (RNG.normal(size=30) + 1e6, np.arange(30.0)),
}


@pytest.mark.parametrize("case", list(CASES))
def test_equal_to_scipy(case: str) -> None:
    x, y = CASES[case]
    assert plcc(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    assert srocc(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert krocc(x, y) == pytest.approx(stats.kendalltau(x, y, variant="b").statistic, abs=1e-12)


def test_bootstrap_equals_metrics_of_the_resamples() -> None:
    """The weights give what one gets by drawing the slices and calling scipy."""
    x, y = CASES["ties"]
    draws = np.random.default_rng(3).integers(0, len(x), size=(40, len(x)))
    for key, function in [
        ("plcc", lambda a, b: stats.pearsonr(a, b).statistic),
        ("srocc", lambda a, b: stats.spearmanr(a, b).statistic),
        ("krocc", lambda a, b: stats.kendalltau(a, b).statistic),
    ]:
        expected = np.percentile([function(x[d], y[d]) for d in draws], [2.5, 97.5])
        result = correlations(x, y, resamples=40, seed=3)[key]  # type: ignore[literal-required]
        np.testing.assert_allclose([result["low"], result["high"]], expected, atol=1e-12)


def test_groups_are_resampled_whole() -> None:
    groups = np.repeat(np.arange(20), [1, 2, 3, 10] * 5)
    counts = resample_counts(groups, resamples=200, seed=1)
    assert counts.shape == (201, len(groups)) and (counts[0] == 1).all()
    first = np.unique(groups, return_index=True)[1]
    np.testing.assert_array_equal(counts, counts[:, first][:, groups])
    np.testing.assert_array_equal(counts[:, first].sum(axis=1), 20)


def test_repeated_slices_of_a_patient_do_not_narrow_the_interval() -> None:
    x, y = CASES["no-ties"]
    alone, patients = correlations(x, y), np.tile(np.arange(len(x)), 4)
    assert correlations(np.tile(x, 4), np.tile(y, 4), groups=patients)["plcc"] == pytest.approx(
        alone["plcc"]
    )
    slices = correlations(np.tile(x, 4), np.tile(y, 4))["plcc"]
    assert slices["high"] - slices["low"] < 0.7 * (alone["plcc"]["high"] - alone["plcc"]["low"])


def test_sum_is_of_absolute_values() -> None:
    x = np.arange(10.0)
    result = correlations(x, -x)
    assert result["plcc"]["value"] == pytest.approx(-1)
    assert result["sum"]["value"] == pytest.approx(3)


def test_constant_predictions_are_not_a_number() -> None:
    assert np.isnan(plcc([1, 1, 1], [1, 2, 3]))
    assert np.isnan(srocc([0.1] * 3, [1, 2, 3]))
    assert np.isnan(krocc([0.1] * 3, [1, 2, 3]))


@pytest.mark.parametrize("x", [[1.0], [1.0, 2.0, 3.0]], ids=["too-few", "length"])
def test_bad_vectors(x: list[float]) -> None:
    with pytest.raises(ValueError, match="two vectors of one length"):
        plcc(x, [1.0, 2.0][: len(x)])
