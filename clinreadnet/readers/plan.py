"""How many slices and readers an interval needs, before anyone reads: `clinreadnet plan-readers`.

- ICC of k readers, half-width w: n = 8 z² (1 - ρ)² (1 + (k - 1) ρ)² / (k (k - 1) (2 w)²) + 1
  (Bonett 2002, doi:10.1002/sim.1108).
- Correlation of score and mean grade: Fisher's z. The mean of k readers has reliability
  k ρ / (1 + (k - 1) ρ) (Spearman and Brown), so the correlation is that with an exact grade times
  its square root.
- m slices of a patient with intraclass correlation c are worth m / (1 + (m - 1) c) slices.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from rich.console import Console

from clinreadnet.console import Column, fitted_table, print_lines
from clinreadnet.errors import InputError
from clinreadnet.scoring.estimate import CONFIDENCE
from clinreadnet.spec import RESEARCH_USE

READERS = (2, 3, 4, 5, 6, 8, 10)
"""Numbers of readers in a plan."""
LEAST_HALF_WIDTH = 0.005
_QUANTILE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class PlannedReading:
    """What a number of readers needs.

    Attributes:
        readers: number of readers k.
        for_agreement: independent slices for the ICC of the readers.
        correlation: expected correlation of the score with the mean grade of k readers.
        for_score: independent slices for that correlation.
        patients: patients for both.
        slices: slices that each reader grades: patients times slices of a patient.
    """

    readers: int
    for_agreement: int
    correlation: float
    for_score: int
    patients: int
    slices: int


@dataclass(frozen=True)
class Plan:
    """Result of `plan_readers`: the arguments, and a row for each number of readers."""

    half_width: float
    agreement: float
    correlation: float
    slices_per_patient: int
    within_patient: float
    rows: tuple[PlannedReading, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``--json``."""
        return {**asdict(self), "confidence": CONFIDENCE, "research_use": RESEARCH_USE}


def plan_readers(
    half_width: float = 0.1,
    *,
    agreement: float = 0.5,
    correlation: float = 0.8,
    slices_per_patient: int = 1,
    within_patient: float = 0.5,
    readers: Sequence[int] = READERS,
) -> Plan:
    """Compute how many slices give 95 % intervals of a half-width.

    Args:
        half_width: half-width of the intervals of ICC and correlation.
        agreement: expected ICC of single readers, between 0 and 1.
        correlation: expected correlation of the score with an exact grade, between 0 and 1.
        slices_per_patient: slices of each patient that are read.
        within_patient: intraclass correlation of the slices of a patient, 0 ... 1.
        readers: numbers of readers, each at least 2.

    Raises:
        InputError: a value is out of range.
    """
    for name, value in (("agreement", agreement), ("correlation", correlation)):
        if not 0 < value < 1:
            raise InputError(f"{name}={value:g}: give a value between 0 and 1")
    if not LEAST_HALF_WIDTH <= half_width < 0.5:
        raise InputError(
            f"half_width={half_width:g}: give {LEAST_HALF_WIDTH:g} or more, and less than 0.5"
        )
    if not 0 <= within_patient <= 1:
        raise InputError(f"within_patient={within_patient:g}: give a value from 0 to 1")
    if slices_per_patient < 1:
        raise InputError(f"slices_per_patient={slices_per_patient}: give 1 or more")
    worth = 1 + (slices_per_patient - 1) * within_patient
    rows = []
    for k in readers:
        reliability = k * agreement / (1 + (k - 1) * agreement)
        expected = correlation * math.sqrt(reliability)
        for_agreement = slices_for_icc(agreement, k, half_width)
        for_score = slices_for_correlation(expected, half_width)
        patients = math.ceil(max(for_agreement, for_score) * worth / slices_per_patient)
        slices = patients * slices_per_patient
        rows.append(PlannedReading(k, for_agreement, expected, for_score, patients, slices))
    return Plan(half_width, agreement, correlation, slices_per_patient, within_patient, tuple(rows))


def slices_for_icc(icc: float, readers: int, half_width: float) -> int:
    """Return the slices for an interval of an ICC (Bonett 2002)."""
    k, width = readers, 2 * half_width
    spread = (1 - icc) * (1 + (k - 1) * icc)
    return math.ceil(8 * _QUANTILE**2 * spread**2 / (k * (k - 1) * width**2) + 1)


def slices_for_correlation(correlation: float, half_width: float) -> int:
    """Return the fewest slices whose interval, by Fisher's z, has at most this half-width."""

    def reach(n: int) -> float:
        z, step = math.atanh(correlation), _QUANTILE / math.sqrt(n - 3)
        return (math.tanh(z + step) - math.tanh(z - step)) / 2

    least = 4  # the interval of 3 slices is not defined
    enough = least
    while reach(enough) > half_width:
        enough *= 2
    sizes = range(least, enough)
    return least + bisect_left(sizes, True, key=lambda n: reach(n) <= half_width)


def print_plan(plan: Plan, console: Console) -> None:
    """Print the table of a plan, and what it assumes."""
    rows = plan.rows
    table = fitted_table(
        console,
        "readers",
        [str(row.readers) for row in rows],
        [
            Column("slices", [str(row.slices) for row in rows]),
            Column("patients", [str(row.patients) for row in rows], 1),
            Column("for ICC", [str(row.for_agreement) for row in rows], 2),
            Column("for score", [str(row.for_score) for row in rows], 2),
            Column("expected PLCC", [f"{row.correlation:.2f}" for row in rows], 3),
        ],
        title=f"For {CONFIDENCE:.0%} intervals of ± {plan.half_width:g}",
    )
    console.print(table)
    m = plan.slices_per_patient
    lines = [
        "Slices: what each reader grades. For ICC, for score: independent slices.",
        f"Expected: ICC of readers {plan.agreement:g}, correlation of the score with an exact "
        f"grade {plan.correlation:g}, {m} slice{'s' if m > 1 else ''} of a patient"
        + (f" that correlate with {plan.within_patient:g}." if m > 1 else "."),
        RESEARCH_USE,
    ]
    print_lines(console, *lines)
