"""Measure rows: warm-up until stable, alternating candidates, changing inputs.

This module is independent of candidates and clocks: a sample is a function that runs once and
returns the seconds.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench.rows import RecordedRow, WarmUp
from bench.statistics import MAX_VARIATION, median_interval, percentile, variation
from clinreadnet.runtime.profiling import stage

Sample = Callable[[], float]
T = TypeVar("T")

MAX_COPIES = 256
MAX_BUSY = 0.05
"""Largest share of the machine for other processes without a mark."""


class NotTimed(Exception):
    """A candidate is not timed. The message gives the reason."""


class Inexact(NotTimed):
    """The outputs of a candidate exceed the budget of its precision."""


class OutsideProfile(NotTimed):
    """The artifact does not support the batch."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C after one or more complete rounds.

    Attributes:
        times: seconds of each candidate for each complete round.
    """

    def __init__(self, times: dict[str, list[float]]) -> None:
        super().__init__("interrupted")
        self.times = times


@dataclass(frozen=True)
class TimedRow:
    """A row with the seconds of each run."""

    row: RecordedRow
    seconds: Sequence[float]


@dataclass(frozen=True)
class Timing:
    """Duration of measurements: arguments of `warm_up` and `interleave`."""

    warm_up: Mapping[str, Any] = field(default_factory=dict)
    interleave: Mapping[str, Any] = field(default_factory=dict)

    def at_most(self, seconds: float) -> Timing:
        """Return a timing with at most ``seconds`` for each of the two."""
        return Timing({"seconds": seconds, **self.warm_up}, {"seconds": seconds, **self.interleave})

    def at_least(self, rounds: int) -> Timing:
        """Return a timing with at least ``rounds`` rounds."""
        return Timing(self.warm_up, {**self.interleave, "rounds": rounds, "most": rounds})


FULL = Timing()
BRIEF = Timing({"seconds": 5.0}, {"rounds": 6, "most": 60, "seconds": 60.0})
"""Timing to choose a backend. `FULL` is longer and is used for records."""
QUICK = Timing({"window": 1, "seconds": 0.0}, {"rounds": 1, "seconds": 0.0, "pause": 0.0})
"""Timing to test the benchmarks: one round. The times are meaningless."""


def warm_up(
    sample: Sample,
    *,
    window: int = 3,
    tolerance: float = MAX_VARIATION,
    seconds: float = 15.0,
    clock: Callable[[], float] = time.perf_counter,
) -> WarmUp:
    """Run until the last ``window`` times differ by at most ``tolerance``, or the time limit."""
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
    """Run all candidates once per round, in random order.

    Args:
        samples: samples by name.
        rounds: least number of rounds.
        most: largest number of rounds.
        seconds: time limit for starting a round after ``rounds`` rounds.
        pause: seconds of sleep before each run, because spinning threads of some libraries slow
            down the next candidate.
        clock: function that returns the time in seconds.

    Returns:
        Seconds of each candidate per round. Entry i of each list is of the same round.

    Raises:
        Interrupted: Ctrl-C after the first round.
    """
    order, draw = list(samples), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in samples}
    start = clock()
    for done in range(most):
        if done >= rounds and clock() - start >= seconds:
            break
        draw.shuffle(order)
        try:
            for name in order:
                time.sleep(pause)
                with stage(name):
                    times[name].append(samples[name]())
        except KeyboardInterrupt:
            if not done:
                raise
            raise Interrupted(
                {name: durations[:done] for name, durations in times.items()}
            ) from None
    return times


def copies_past_the_cache(size: int, cache: int) -> int:
    """Return the number of inputs of ``size`` bytes to alternate so that a cache stays cold."""
    return min(MAX_COPIES, max(2, math.ceil(4 * cache / size)))


def host_sample(
    run: Callable[[T], object],
    inputs: Sequence[T],
    clock: Callable[[], float] = time.perf_counter,
) -> Sample:
    """Return a sample that times ``run`` by the wall clock, with alternating inputs."""
    turn = itertools.cycle(inputs)

    def sample() -> float:
        batch = next(turn)
        start = clock()
        run(batch)
        return clock() - start

    return sample


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Return the fields of a row that summarise its times [n] in seconds."""
    return {
        "n": len(seconds),
        "p50": percentile(seconds, 50),
        "interval": median_interval(seconds),
        "variation": variation(seconds),
    }


def marks(
    times: Sequence[float],
    warm: WarmUp,
    *,
    throttled: Sequence[str] = (),
    busy: float | None = None,
) -> list[str]:
    """Return the marks of a row, the reasons not to trust it.

    Args:
        times: times [n] in seconds.
        warm: warm-up before the times.
        throttled: reasons for throttling of the GPU before or after.
        busy: share of the processors that other processes used; None if unknown.
    """
    reasons = [f"throttled ({', '.join(throttled)})"] if throttled else []
    if not warm.stable:
        reasons.append("not settled")
    if (spread := variation(times)) > MAX_VARIATION:
        reasons.append(f"CV {100 * spread:.0f} %")
    if busy is not None and busy > MAX_BUSY:
        reasons.append(f"machine {100 * busy:.0f} % busy")
    return reasons
