import numpy as np
import pytest

from clinreadnet.evaluation.maps import map_agreement, map_errors


@pytest.fixture
def truth() -> np.ndarray:
    return np.random.default_rng(0).random((12, 16, 16)) * 4


def test_a_true_map_is_perfect_and_a_flat_one_is_worth_nothing(truth: np.ndarray) -> None:
    weight, quality = np.ones_like(truth), truth.mean(axis=(1, 2))
    perfect = map_agreement(truth, truth, weight, quality)
    assert perfect is not None
    assert perfect["correlation"]["value"] == pytest.approx(1)
    assert perfect["rmse_ratio"]["value"] == perfect["rmse"] == 0 and perfect["slices"] == 12
    flat = np.broadcast_to(quality[:, None, None], truth.shape)
    nothing = map_agreement(flat, truth, weight, quality)
    assert nothing is not None
    assert nothing["correlation"]["value"] == 0
    assert nothing["rmse_ratio"]["value"] == pytest.approx(1)


def test_only_tiles_of_the_body_count(truth: np.ndarray) -> None:
    weight = np.ones_like(truth)
    weight[:, 8:] = 0.4
    wrong = truth.copy()
    wrong[:, 8:] = -7
    agreement = map_agreement(wrong, truth, weight, truth[:, :8].mean(axis=(1, 2)))
    assert agreement is not None and agreement["correlation"]["value"] == pytest.approx(1)


def test_the_correlation_is_within_each_slice(truth: np.ndarray) -> None:
    # Right from slice to slice, and noise within each.
    rng = np.random.default_rng(1)
    level = np.arange(12)[:, None, None] / 3
    maps, true = level + 0.1 * rng.random(truth.shape), level + 0.1 * truth
    agreement = map_agreement(maps, true, np.ones_like(truth), level[:, 0, 0])
    assert agreement is not None and abs(agreement["correlation"]["value"]) < 0.15
    assert np.corrcoef(maps.ravel(), true.ravel())[0, 1] > 0.95


def test_rows_by_hand() -> None:
    truth = np.zeros((1, 16, 16))
    truth[0, 0, :8] = np.arange(8) / 2
    weight = np.zeros_like(truth)
    weight[0, 0, :8] = 1
    ((correlation, error, flat, tiles),) = map_errors(truth + 0.5, truth, weight, np.array([1.0]))
    assert (correlation, tiles) == (pytest.approx(1), 8)
    assert error == pytest.approx(0.25)
    assert flat == pytest.approx(np.mean((1 - np.arange(8) / 2) ** 2))


def test_slices_without_body_or_spread_tell_nothing(truth: np.ndarray) -> None:
    assert map_agreement(truth, truth, np.zeros_like(truth), truth[:, 0, 0]) is None
    constant = np.ones_like(truth)
    assert map_agreement(truth, constant, np.ones_like(truth), truth[:, 0, 0]) is None
