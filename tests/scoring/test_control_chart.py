"""The individuals chart against a worked example, and what it marks."""

from __future__ import annotations

import numpy as np
import pytest

from clinreadnet.scoring.control_chart import RUN, individuals_chart


def test_the_limits_are_those_worked_by_hand() -> None:
    # Moving ranges 2, 1, 3, 1, 3: their mean is 2, and 2.66 * 2 = 5.32, where 2.66 is rounded.
    chart = individuals_chart([10, 12, 11, 14, 13, 10])
    assert chart.centre == pytest.approx(70 / 6)
    assert chart.upper - chart.centre == pytest.approx(5.32, abs=0.01)
    assert chart.centre - chart.lower == pytest.approx(5.32, abs=0.01)
    assert chart.outside == () and chart.runs == ()


def test_the_limits_hold_three_standard_deviations_of_normal_values() -> None:
    chart = individuals_chart(np.random.default_rng(0).normal(2, 0.1, 20_000).tolist())
    assert chart.upper - chart.centre == pytest.approx(0.3, rel=0.02)
    assert 20 < len(chart.outside) < 90  # 0.27 % of 20,000 is 54


def test_limits_stop_at_the_least_and_the_largest_value_possible() -> None:
    values = [1.0, 3.0] * 10 + [4.0]
    chart, free = individuals_chart(values, (0, 4)), individuals_chart(values)
    assert free.lower < 0 and free.upper > 4
    assert (chart.lower, chart.upper) == (0, 4)
    assert (chart.centre, chart.outside, chart.runs) == (free.centre, free.outside, free.runs)


@pytest.mark.parametrize("sign", [1, -1], ids=["above", "below"])
def test_a_point_outside_is_named(sign: int) -> None:
    chart = individuals_chart([0.1, -0.1] * 10 + [sign * 3.0] + [0.1, -0.1] * 10)
    assert chart.outside == (20,)


def test_a_slow_drift_leaves_limits_that_its_ends_exceed() -> None:
    drift = np.linspace(0, 1, 100) + 0.02 * np.tile([1, -1], 50)
    chart = individuals_chart(drift.tolist())
    assert {0, 1, 98, 99} <= set(chart.outside)
    assert chart.runs[0][0] == 0 and chart.runs[-1][1] == 99


@pytest.mark.parametrize(("length", "runs"), [(RUN - 1, ()), (RUN, ((2, RUN + 1),))])
def test_nine_points_on_one_side_are_a_run(length: int, runs: object) -> None:
    below = [-1.0 * length / 2] * 2
    values = [*below, *[1.0] * length, 0.0]  # the mean is 0, and a point on it ends the run
    chart = individuals_chart(values)
    assert chart.centre == pytest.approx(0)
    assert chart.runs == runs


def test_equal_values_are_in_control() -> None:
    chart = individuals_chart([3.1] * 30)
    assert chart.outside == () and chart.runs == ()
    assert chart.lower == pytest.approx(3.1) and chart.upper == pytest.approx(3.1)


def test_one_value_has_no_chart() -> None:
    with pytest.raises(ValueError, match="1 values; a control chart needs 2 or more"):
        individuals_chart([1.0])
