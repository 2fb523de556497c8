"""Timing on a fake clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench import run as timing
from bench.rows import WarmUp


class Clock:
    """A clock that advances only during a run."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sample(self, times: Iterator[float]) -> Callable[[], float]:
        def run() -> float:
            took = next(times)
            self.now += took
            return took

        return run


def endless(*times: float) -> Iterator[float]:
    yield from times
    while True:
        yield times[-1]


@pytest.mark.parametrize(
    ("times", "runs", "stable"),
    [
        pytest.param((1.0,), 3, True, id="steady"),
        pytest.param((9.0, 3.0, 1.0), 5, True, id="settles"),
        pytest.param((1.0, 1.04, 1.0), 3, True, id="within-tolerance"),
    ],
)
def test_warm_up_ends_when_times_have_settled(
    times: tuple[float, ...], runs: int, stable: bool
) -> None:
    clock = Clock()
    warm = timing.warm_up(clock.sample(endless(*times)), seconds=100, clock=clock)
    assert (warm.runs, warm.stable) == (runs, stable)
    assert warm.seconds == clock.now


def test_warm_up_that_never_settles_ends_and_says_so() -> None:
    clock = Clock()
    growing = iter(1.2**i for i in range(1000))
    warm = timing.warm_up(clock.sample(growing), seconds=50, clock=clock)
    assert not warm.stable and 50 <= warm.seconds < 75


def test_candidates_take_turns_in_changing_order() -> None:
    clock = Clock()
    order: list[str] = []

    def candidate(name: str) -> Callable[[], float]:
        run = clock.sample(endless(1.0))

        def sample() -> float:
            order.append(name)
            return run()

        return sample

    samples = {name: candidate(name) for name in "abc"}
    times = timing.interleave(samples, rounds=20, seconds=0, pause=0, clock=clock)
    assert {len(seconds) for seconds in times.values()} == {20}
    rounds = [tuple(order[i : i + 3]) for i in range(0, 60, 3)]
    assert {tuple(sorted(names)) for names in rounds} == {("a", "b", "c")}
    assert set(Counter(names[0] for names in rounds)) == {"a", "b", "c"}


def test_rounds_end_with_the_time_or_the_number() -> None:
    clock = Clock()
    interleave = timing.interleave
    samples = {"a": clock.sample(endless(1.0))}
    limits = {"rounds": 5, "most": 50, "pause": 0, "clock": clock}
    assert len(interleave(samples, seconds=0, **limits)["a"]) == 5
    assert len(interleave(samples, seconds=12, **limits)["a"]) == 12
    assert len(interleave(samples, seconds=1000, **limits)["a"]) == 50


def test_what_slows_a_round_cancels_in_the_ratio() -> None:
    from bench.statistics import paired_ratio

    clock = Clock()
    noise = [1.0, 5.0, 1.0, 2.0, 9.0, 1.0, 1.0, 3.0]
    samples = {
        "baseline": clock.sample(iter([2 * x for x in noise])),
        "candidate": clock.sample(iter(noise)),
    }
    times = timing.interleave(samples, rounds=8, most=8, seconds=0, pause=0, clock=clock)
    assert paired_ratio(times["baseline"], times["candidate"]) == (2.0, 2.0, 2.0)


def test_each_run_has_another_input() -> None:
    clock, inputs = Clock(), []

    def run(value: str) -> None:
        inputs.append(value)
        clock.now += 0.25

    sample = timing.host_sample(run, ["a", "b", "c"], clock)
    assert [sample() for _ in range(4)] == [0.25] * 4
    assert inputs == ["a", "b", "c", "a"]


@pytest.mark.parametrize(
    ("size", "cache", "copies"),
    [
        pytest.param(10, 100, 40, id="four-caches"),
        pytest.param(1000, 100, 2, id="never-one"),
        pytest.param(1, 1000, 256, id="bounded"),
    ],
)
def test_inputs_are_enough_to_leave_the_cache(size: int, cache: int, copies: int) -> None:
    assert timing.copies_past_the_cache(size, cache) == copies


@pytest.mark.parametrize(
    ("times", "stable", "facts", "marks"),
    [
        pytest.param([1.0, 1.0, 1.01], True, {"busy": 0.05}, [], id="clean"),
        pytest.param([1.0, 1.0, 1.2], True, {}, ["CV 11 %"], id="spread"),
        pytest.param([1.0, 1.0], False, {}, ["not settled"], id="cold"),
        pytest.param([1.0], True, {"busy": 0.4}, ["machine 40 % busy"], id="busy"),
        pytest.param(
            [1.0], True, {"throttled": ["sw_power_cap"]}, ["throttled (sw_power_cap)"], id="hot"
        ),
    ],
)
def test_doubts_are_marked(
    times: list[float], stable: bool, facts: dict[str, Any], marks: list[str]
) -> None:
    assert timing.marks(times, WarmUp(3, 1.0, stable), **facts) == marks


def test_ctrl_c_keeps_the_whole_rounds() -> None:
    clock, runs = Clock(), 0

    def interrupted_in_the_third_round() -> float:
        nonlocal runs
        runs += 1
        if runs == 3:
            raise KeyboardInterrupt
        return 2.0

    samples = {"a": clock.sample(endless(1.0)), "b": interrupted_in_the_third_round}
    with pytest.raises(timing.Interrupted) as stop:
        timing.interleave(samples, pause=0, clock=clock)
    assert stop.value.times == {"a": [1.0, 1.0], "b": [2.0, 2.0]}
    with pytest.raises(KeyboardInterrupt) as at_once:
        runs = 2
        timing.interleave(samples, pause=0, clock=clock)
    assert not isinstance(at_once.value, timing.Interrupted)
