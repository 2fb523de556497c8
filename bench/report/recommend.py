"""Recommend the artifact to deploy on a machine, with the reasons against faster ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.results import RecordedRun
from bench.rows import BenchRow
from clinreadnet.errors import InputError
from clinreadnet.runtime.bundle.manifest import NOT_RUN, Artifact, Manifest, Parity
from clinreadnet.runtime.records import CPU_BACKEND, CPU_BACKENDS

QUANTITIES = ("score", "tile", "novelty", "error", "PLCC", "SROCC", "KROCC")
"""Quantities of a budget: worst differences of a score and of a tile of a map in grades, worst
relative difference of a novelty, largest relative error of an output, and differences of the
metrics."""

DEFAULT_BUDGET = "score<=0.02"

_TERM = re.compile(r"\s*(\w+)\s*<=\s*([0-9.eE+-]+)\s*")


@dataclass(frozen=True)
class Judgement:
    """Judgement of a measured artifact.

    Attributes:
        row: measurement.
        cost: worst difference of a score in the verification, or None.
        reason: why the artifact is rejected, or None.
        absent: whether the bundle lacks the artifact.
    """

    row: BenchRow
    cost: float | None
    reason: str | None
    absent: bool = False

    def measures(self) -> str:
        """Return the time with its 95 % interval, and the error, as text."""
        low, high = (1e3 * end for end in self.row.interval)
        error = "" if self.cost is None else f", score off by at most {self.cost:.1e}"
        return f"{1e3 * self.row.p50:.3g} ms a slice ({low:.3g} … {high:.3g}){error}"


@dataclass(frozen=True)
class Recommendation:
    """The fastest artifact within a budget on one machine.

    Attributes:
        machine: name of the hardware.
        budget: budget as given.
        best: fastest artifact within the budget, or None.
        refused: faster artifacts with reasons; all artifacts if ``best`` is None.
    """

    machine: str
    budget: str
    best: Judgement | None
    refused: tuple[Judgement, ...]

    @property
    def bounds(self) -> dict[str, float]:
        """Bounds of the budget by quantity."""
        return parse_budget(self.budget)

    @property
    def missing(self) -> tuple[str, ...]:
        """Precisions of faster artifacts that the bundle lacks."""
        return tuple(dict.fromkeys(item.row.precision for item in self.refused if item.absent))

    def lines(self) -> list[str]:
        """Return the recommendation as lines of text."""
        lines = []
        if self.best is None:
            lines.append(f"{self.machine}: no measured artifact is within {self.budget}")
        else:
            row = self.best.row
            lines.append(
                f"{self.machine}: deploy {row.artifact} with {row.candidate}: "
                f"{self.best.measures()}; {self.budget} holds"
                + (f" ({', '.join(row.marks)})" if row.marks else "")
            )
        for item in self.refused:
            lines.append(
                f"{self.machine}: refused {item.row.artifact} with {item.row.candidate}, "
                f"{1e3 * item.row.p50:.3g} ms: {item.reason}"
            )
        return lines


def parse_budget(text: str) -> dict[str, float]:
    """Return the bounds of a budget such as ``score<=0.02,SROCC<=0.001``.

    Raises:
        InputError: the form is invalid, a quantity is unknown, or a bound is not positive.
    """
    bounds: dict[str, float] = {}
    for term in text.split(","):
        match = _TERM.fullmatch(term)
        try:
            bound = float(match[2]) if match else -1.0
        except ValueError:
            bound = -1.0
        if match is None or match[1] not in QUANTITIES or not 0 < bound < float("inf"):
            raise InputError(
                f"budget {term.strip()!r} is not QUANTITY<=NUMBER with a quantity of "
                f"{', '.join(QUANTITIES)}; such as {DEFAULT_BUDGET!r}"
            )
        bounds[match[1]] = bound
    return bounds


def recommend(run: RecordedRun, manifest: Manifest, budget: str) -> Recommendation:
    """Choose among the rows of a recorded run; see `choose`."""
    return choose(run.rows, manifest, budget, machine=run.called, gpu=run.gpu)


def choose(
    measured: Sequence[BenchRow], manifest: Manifest, budget: str, *, machine: str, gpu: str | None
) -> Recommendation:
    """Choose the fastest artifact for a slice in host memory.

    An artifact for GPUs must have passed verification on this GPU, one for processors on a
    processor.

    Args:
        measured: rows of a machine.
        manifest: manifest of a verified bundle.
        budget: budget in the form of `parse_budget`.
        machine: name of the machine.
        gpu: name of the GPU, or None.

    Raises:
        InputError: as in `parse_budget`.
    """
    bounds = parse_budget(budget)
    rows = [r for r in measured if (r.role, r.batch, r.clock) == ("artifact", 1, "host")]
    refused: list[Judgement] = []
    for row in sorted(rows, key=lambda row: row.p50):
        judged = judge(row, manifest.artifacts, bounds, gpu)
        if judged.reason is None:
            return Recommendation(machine, budget, judged, tuple(refused))
        refused.append(judged)
    return Recommendation(machine, budget, None, tuple(refused))


def judge(
    row: BenchRow, artifacts: Sequence[Artifact], bounds: dict[str, float], gpu: str | None
) -> Judgement:
    """Compare a measured artifact with a budget.

    Args:
        row: measurement of the artifact.
        artifacts: artifacts of the bundle.
        bounds: bounds by quantity.
        gpu: name of the machine's GPU, or None.
    """
    # A checkpoint is one file with a record for each precision.
    named = (row.artifact, row.precision)
    artifact = next((a for a in artifacts if (a.file, a.precision) == named), None)
    if artifact is None:
        flavour = " --flavour tensorrt" if row.candidate == "tensorrt" else ""
        export = f"clinreadnet export --precision {row.precision}{flavour}"
        return Judgement(row, None, f"not in this bundle; `{export}` makes it", absent=True)
    if artifact.sha256 != row.sha256:
        return Judgement(
            row, None, "measured on another build of this file; run `make bench-record`"
        )
    on_gpu = None if row.candidate in CPU_BACKENDS else gpu
    alone = row.candidate == CPU_BACKEND
    where = on_gpu or ("a processor" if alone else f"a processor with {row.candidate}")
    parity = _record(artifact, row.candidate, on_gpu)
    if parity is None:
        return Judgement(
            row, None, f"not verified on {where}; run `clinreadnet verify --record` there"
        )
    if parity.status != "passed":
        return Judgement(row, None, f"verification failed on {where}")
    errors = [abs(e) for e in parity.relative_error.values() if e is not None]
    costs: dict[str, float | None] = {
        "score": parity.worst_score_difference,
        "tile": parity.worst_tile_difference,
        "novelty": parity.worst_novelty_difference,
        "error": max(errors, default=None),
        **parity.metric_difference,
    }
    over = []
    for quantity, bound in bounds.items():
        cost = costs.get(quantity)
        if cost is None:
            over.append(f"{quantity} not measured")
        elif cost > bound:
            over.append(f"{quantity} {cost:.2g} > {bound:g}")
    return Judgement(row, parity.worst_score_difference, ", ".join(over) or None)


def _record(artifact: Artifact, backend: str, gpu: str | None) -> Parity | None:
    """Return the newest record of a backend on a GPU, or on any processor; None if missing."""
    records = [
        parity
        for parity in artifact.runs
        if parity.ran_on and (parity.ran_on.backend, parity.ran_on.gpu) == (backend, gpu)
    ]
    first = artifact.parity
    if not records and backend == CPU_BACKEND and first and first.status != NOT_RUN:
        # Records without a machine in older bundles are from a processor.
        records = [first] if first.ran_on is None else []
    return max(
        records, key=lambda parity: parity.ran_on.date if parity.ran_on else "", default=None
    )
