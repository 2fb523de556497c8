"""The individuals chart against a worked example, and what it marks."""

from __future__ import annotations

import numpy as np
import pytest

from clinreadnet.scoring.control_chart import (
    FALSE_ALARMS,
    RULES,
    RUN,
    find_signals,
    individuals_chart,
)


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
def test_eight_points_on_one_side_are_a_run(length: int, runs: object) -> None:
    below = [-1.0 * length / 2] * 2
    values = [*below, *[1.0] * length, 0.0]  # the mean is 0, and a point on it ends the run
    chart = individuals_chart(values)
    assert chart.centre == pytest.approx(0)
    assert chart.runs == runs


@pytest.mark.parametrize("sign", [1, -1], ids=["above", "below"])
@pytest.mark.parametrize(
    ("values", "signals"),
    [
        ([0, 3.1, 0], [(1, 1)]),
        ([0, 3.0, 0], []),
        ([2.1, 0, 2.1, 0], [(2, 2)]),
        ([2.1, 0, 0, 2.1], []),  # two of four
        ([2.1, -2.1, 0, 0], []),  # on two sides
        ([2.1, 2.1, 2.1, 0], [(1, 2), (2, 2)]),
        ([1.1, 1.1, 0, 1.1, 1.1, 0], [(4, 3)]),
        ([1.1, 1.1, 0, 1.1, 0, 1.1], []),
        ([0.1] * 8 + [-0.1], [(7, 4)]),
        ([0.1] * 7 + [-0.1], []),
        ([0.1] * 7 + [3.1], [(7, 1), (7, 4)]),
    ],
)
def test_the_rules_of_western_electric_mark_the_point_that_completes_a_pattern(
    values: list[float], signals: list[tuple[int, int]], sign: int
) -> None:
    assert find_signals(sign * np.array(values), 1.0) == tuple(signals)
    assert find_signals(sign * np.array(values) * 0.2, 0.2) == tuple(signals)


def test_rule_1_is_outside_and_rule_4_ends_a_run() -> None:
    chart = individuals_chart([0.1, -0.1] * 10 + [3.0] + [-0.1] * 12)
    assert [index for index, rule in chart.signals if rule == 1] == list(chart.outside) == [20]
    assert chart.runs == ((21, 32),) and chart.marked(4) == [(20 + RUN, 32)]
    assert chart.marked(1) == [(20, 20)] and set(RULES) == {1, 2, 3, 4}


def test_false_alarms_are_as_stated() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=400_000)
    alarms = sum(rule == 1 for _, rule in find_signals(points, 1.0)) / len(points)
    # 0.27 % of 400,000 is 1080, with a standard deviation of 33.
    assert alarms == pytest.approx(0.0027, abs=3 * 33 / 400_000)
    assert "0.27 % of days" in FALSE_ALARMS
    # The run length is nearly geometric: a standard deviation of 92 / sqrt(4000) = 1.5 of its mean.
    # 2000 points are enough: one of exp(2000 / 92) series has no mark.
    lengths = [find_signals(series, 1.0)[0][0] + 1 for series in rng.normal(size=(4000, 2000))]
    assert np.mean(lengths) == pytest.approx(91.75, abs=3 * 1.5)
    assert "after 92 days" in FALSE_ALARMS


def test_equal_values_are_in_control() -> None:
    chart = individuals_chart([3.1] * 30)
    assert chart.outside == () and chart.runs == () and chart.signals == ()
    assert chart.lower == pytest.approx(3.1) and chart.upper == pytest.approx(3.1)


def test_one_value_has_no_chart() -> None:
    with pytest.raises(ValueError, match="1 values; a control chart needs 2 or more"):
        individuals_chart([1.0])
