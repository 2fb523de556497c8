"""Whether a benchmark became slower: yes, no, or how many more rounds would decide it.

Compared are medians on a log scale. A slowdown of `SLOWER` must be found, and no change at all must
pass. The limit lies halfway between: a row fails if it is certainly above it, and passes if it is
certainly below. A row that is undecided is measured again, so an interval is looked at several
times; `CONFIDENCE` makes up for `LOOKS` of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist

from bench.rows import BenchRow

SLOWER = 1.10
"""A slowdown that must be found."""
LIMIT = math.sqrt(SLOWER)
LOOKS = 8
"""How often the interval of one row is looked at, at most."""
CONFIDENCE = 1 - 0.05 / LOOKS
"""One-sided. Over all looks, at most 5 % of the verdicts are wrong."""

_QUANTILE = NormalDist().inv_cdf(CONFIDENCE)
_NEAR = 0.6 * math.log(LIMIT)
_QUANTILE_95 = NormalDist().inv_cdf(0.975)


class Verdict(Enum):
    """What the times say about a row."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class Times:
    """The times of a row, as far as a comparison of medians needs them.

    Attributes:
        log_median: natural logarithm of the median in seconds.
        error: standard error of that.
        rounds: runs that were timed.
    """

    log_median: float
    error: float
    rounds: int

    @classmethod
    def of(cls, row: BenchRow) -> Times:
        """Return those of a row; its interval of the median gives the standard error."""
        low, high = (math.log(seconds) for seconds in row.interval)
        return cls(math.log(row.p50), (high - low) / (2 * _QUANTILE_95), row.n)

    @classmethod
    def pooled(cls, runs: Sequence[Times]) -> Times:
        """Return those of several measurements of one row, weighted by their rounds."""
        rounds = sum(run.rounds for run in runs)
        shares = [run.rounds / rounds for run in runs]
        return cls(
            sum(share * run.log_median for share, run in zip(shares, runs, strict=True)),
            math.sqrt(sum((s * run.error) ** 2 for s, run in zip(shares, runs, strict=True))),
            rounds,
        )


@dataclass(frozen=True)
class Decision:
    """The comparison of one row with its recorded times.

    Attributes:
        verdict: what the times say.
        slowdown: the new median over the recorded one.
        low: lower end of its interval, one-sided at `CONFIDENCE`.
        high: upper end of the same.
        more: rounds after which to decide again; 0 where it is decided, None where no number helps,
            because the recorded median is too uncertain.
    """

    verdict: Verdict
    slowdown: float
    low: float
    high: float
    more: int | None


def decide(before: Times, now: Times) -> Decision:
    """Compare a row's times with the recorded ones."""
    slowdown = now.log_median - before.log_median
    error = math.hypot(now.error, before.error)
    distance = slowdown - math.log(LIMIT)
    reach = _QUANTILE * error
    verdict, more = Verdict.INCONCLUSIVE, _more(before, now, distance)
    if abs(distance) > reach:
        verdict, more = (Verdict.FAIL if distance > 0 else Verdict.PASS), 0
    return Decision(
        verdict,
        math.exp(slowdown),
        math.exp(slowdown - reach),
        math.exp(slowdown + reach),
        more,
    )


def _more(before: Times, now: Times, distance: float) -> int | None:
    """Return how many more rounds bring the interval's nearer end to the limit.

    A median near the limit may be there by chance, so its distance counts as `_NEAR` at least.
    """
    allowed = (max(abs(distance), _NEAR) / _QUANTILE) ** 2 - before.error**2
    if allowed <= 0:
        return None
    return max(1, math.ceil(now.rounds * (now.error**2 / allowed - 1)))
