"""The timing of a row: warm-up until stable, alternating candidates, changing inputs.

This module does not depend on what is timed or on the clock: a sample is a function that runs once
and returns the seconds it took.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench.rows import WarmUp
from bench.statistics import MAX_VARIATION, variation
from clinreadnet.runtime.ranges import stage

Sample = Callable[[], float]
T = TypeVar("T")

MAX_COPIES = 256
MAX_BUSY = 0.05
"""Share of the machine that other processes may use before a row is marked."""


@dataclass(frozen=True)
class Timing:
    """How long rows are measured: arguments of `warm_up` and of `interleave`."""

    warm_up: Mapping[str, Any] = field(default_factory=dict)
    interleave: Mapping[str, Any] = field(default_factory=dict)

    def at_most(self, seconds: float) -> Timing:
        """Return a timing that spends no more than ``seconds`` on each of the two."""
        return Timing({"seconds": seconds, **self.warm_up}, {"seconds": seconds, **self.interleave})

    def at_least(self, rounds: int) -> Timing:
        """Return a timing with at least ``rounds`` rounds, however long they take."""
        return Timing(self.warm_up, {**self.interleave, "rounds": rounds, "most": rounds})


FULL = Timing()
QUICK = Timing({"window": 1, "seconds": 0.0}, {"rounds": 1, "seconds": 0.0, "pause": 0.0})
"""One round after one run: to try the benches. The times mean nothing."""


def warm_up(
    sample: Sample,
    *,
    window: int = 3,
    tolerance: float = MAX_VARIATION,
    seconds: float = 15.0,
    clock: Callable[[], float] = time.perf_counter,
) -> WarmUp:
    """Run until the last ``window`` times differ by at most ``tolerance``, or the time is up."""
    start = clock()
    times: list[float] = []
    while True:
        times.append(sample())
        last = times[-window:]
        if len(last) == window and max(last) <= (1 + tolerance) * min(last):
            return WarmUp(len(times), clock() - start, True)
        if clock() - start >= seconds and len(times) >= window:
            return WarmUp(len(times), clock() - start, False)


def interleave(
    samples: Mapping[str, Sample],
    *,
    rounds: int = 10,
    most: int = 200,
    seconds: float = 20.0,
    pause: float = 0.01,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run all candidates once per round, in a new random order each round.

    Args:
        samples: samples by name.
        rounds: least number of rounds.
        most: largest number of rounds.
        seconds: after ``rounds`` rounds, no round begins later than this.
        pause: seconds of sleep before each run: the threads of some libraries spin for a while and
            would slow down the next candidate.
        clock: returns the time in seconds.

    Returns:
        The seconds of each candidate, one per round: entry i of each list is of the same round.
    """
    order, draw = list(samples), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in samples}
    start = clock()
    for done in range(most):
        if done >= rounds and clock() - start >= seconds:
            break
        draw.shuffle(order)
        for name in order:
            time.sleep(pause)
            with stage(name):
                times[name].append(samples[name]())
    return times


def copies_past_the_cache(size: int, cache: int) -> int:
    """Return the number of inputs of ``size`` bytes to rotate so that a cache stays cold."""
    return min(MAX_COPIES, max(2, math.ceil(4 * cache / size)))


def host_sample(
    run: Callable[[T], object],
    inputs: Sequence[T],
    clock: Callable[[], float] = time.perf_counter,
) -> Sample:
    """Return a sample that times ``run`` by the wall clock, each time on the next input."""
    turn = itertools.cycle(inputs)

    def sample() -> float:
        one = next(turn)
        start = clock()
        run(one)
        return clock() - start

    return sample


def marks(
    times: Sequence[float],
    warm: WarmUp,
    *,
    throttled: Sequence[str] = (),
    busy: float | None = None,
) -> list[str]:
    """Return the marks of a row, the reasons not to trust it.

    Args:
        times: seconds [n].
        warm: the warm-up before them.
        throttled: the GPU's reasons for throttling before or after.
        busy: share of the processors that other processes used meanwhile; None if unknown.
    """
    found = [f"throttled ({', '.join(throttled)})"] if throttled else []
    if not warm.stable:
        found.append("not settled")
    if (spread := variation(times)) > MAX_VARIATION:
        found.append(f"CV {100 * spread:.0f} %")
    if busy is not None and busy > MAX_BUSY:
        found.append(f"machine {100 * busy:.0f} % busy")
    return found


class Replay:
    """pytest-benchmark's clock for times that are already known: one function call takes one."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """Return the seconds that have passed."""
        return self._now

    def through(self, times: Sequence[float]) -> Callable[[], None]:
        """Return a function whose i-th call takes ``times[i]`` on this clock."""
        coming = iter(times)

        def call() -> None:
            self._now += next(coming)

        return call


REPLAY = Replay()
