"""The measurement of a machine's rates."""

from __future__ import annotations

import pytest

from bench.measure.rates import SIZES, product_rate


@pytest.mark.parametrize(("flops", "tried"), [(1e12, set(SIZES)), (1e9, {256, 512})])
def test_a_slow_type_is_not_multiplied_in_large_sizes(flops: float, tried: set[int]) -> None:
    """The largest product takes half a minute without instructions for its type."""
    now, sizes = [0.0], set[int]()

    def multiply(n: int) -> None:
        sizes.add(n)
        now[0] += 2 * n**3 / flops

    rate = product_rate(lambda shape: shape[0], multiply, lambda: now[0])
    assert sizes == tried
    assert rate == pytest.approx(flops)


def test_the_best_size_counts() -> None:
    now = [0.0]

    def multiply(n: int) -> None:
        now[0] += 1e-6 + 2 * n**3 / 1e12

    rate = product_rate(lambda shape: shape[0], multiply, lambda: now[0])
    assert 0.99e12 < rate < 1e12
