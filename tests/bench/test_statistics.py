"""The coverage of the intervals of the median."""

import numpy as np
import pytest

from bench.statistics import median_interval, paired_ratio, variation


@pytest.mark.parametrize(
    ("n", "skipped"),
    [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (12, 2), (20, 5), (100, 39)],
    ids=lambda value: str(value),
)
def test_ends_are_the_order_statistics_of_the_sign_test(n: int, skipped: int) -> None:
    """From the tables of the sign test at 5 %; below 6 values everything."""
    values = np.random.default_rng(n).permutation(n).tolist()
    assert median_interval(values) == (skipped, n - 1 - skipped)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=(2000, 15))  # median log 2
    held = [low <= np.log(2) <= high for low, high in map(median_interval, draws)]
    assert 0.95 <= np.mean(held) <= 0.985  # the sign test's own coverage here is 0.965


def test_ratio_and_variation() -> None:
    assert paired_ratio([2.0, 6.0, 4.0], [1.0, 2.0, 4.0]) == (2.0, 1.0, 3.0)
    assert variation([1.0]) == 0
    assert variation([1.0, 3.0]) == pytest.approx(np.sqrt(2) / 2)
