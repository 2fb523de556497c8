"""Result of a verification, and its tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from clinreadnet.console import Column, fitted_table, print_lines
from clinreadnet.errors import counted
from clinreadnet.metrics import Interval
from clinreadnet.runtime.bundle.manifest import NOT_RUN, Artifact, Parity, RanOn
from clinreadnet.spec import RESEARCH_USE
from clinreadnet.verify.compare import MAP_METRICS, METRICS, not_run

GOLDEN_SOURCE = "golden"
"""`VerifyReport.source` of a verification on the golden slices."""

SIMULATED_LABELS = "the labels of simulated radiologists"
"""What the golden slices of a bundle are labelled with."""


@dataclass(frozen=True)
class VerifyReport:
    """Result of `verify_golden` or `verify_folder`.

    Attributes:
        bundle: the folder.
        source: "golden", or the labelled folder.
        slices: number of compared slices; 0 if the golden file is broken.
        artifacts: entries of the manifest with their new ``parity``. ``records`` are the results of
            further backends of this machine.
        problems: problems of the bundle as a whole.
        scores: [slices] scores of each artifact that ran, by file, and of "reference".
        unjudged: why slices cannot be classified as in domain; None if they can.
        notes: limitations of the verification.
    """

    bundle: Path
    source: str
    slices: int
    artifacts: tuple[Artifact, ...]
    problems: tuple[str, ...] = ()
    scores: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    unjudged: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> str:
        """Whose labels the metrics are measured against."""
        return SIMULATED_LABELS if self.source == GOLDEN_SOURCE else f"the labels of {self.source}"

    @property
    def passed(self) -> bool:
        """Whether nothing failed and at least one artifact ran."""
        return not self.problems and all_passed(self.artifacts)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "bundle": str(self.bundle),
            "passed": self.passed,
            "source": self.source,
            "slices": self.slices,
            "problems": list(self.problems),
            "unjudged": self.unjudged,
            "notes": list(self.notes),
            "accuracy": {
                "labels": self.labels,
                "of": {name: dict(metrics) for name, metrics, _ in measured(self)},
            },
            "artifacts": [
                {
                    "file": a.file,
                    "kind": a.kind,
                    "precision": a.precision,
                    "target": a.target,
                    **({} if a.parity is None else asdict(a.parity)),
                    "records": [asdict(parity) for parity in a.records],
                }
                for a in self.artifacts
            ],
            "research_use": RESEARCH_USE,
        }


def all_passed(artifacts: tuple[Artifact, ...]) -> bool:
    """Return whether no artifact failed and at least one passed."""
    statuses = {parity.status for a in artifacts for parity in (a.parity, *a.records) if parity}
    return "failed" not in statuses and "passed" in statuses


def print_report(report: VerifyReport, console: Console) -> None:
    """Print tables, then failures and artifacts that did not run."""
    colours = {"passed": "green", "failed": "red", NOT_RUN: "yellow"}
    notes = [(report.bundle.name, "failed", problem) for problem in report.problems]
    results = list(_results(report.artifacts))
    parities = [parity for _, parity in results]
    columns = [
        Column("status", [Text(p.status, colours[p.status]) for p in parities], justify="left"),
        Column("error / budget", [_error(p) for p in parities], 1),
        *(
            Column(f"Δ{name}", [number(p.metric_difference.get(name)) for p in parities], order)
            for order, name in enumerate(METRICS, start=3)
        ),
        Column("Δscore", [number(p.worst_score_difference) for p in parities], 2),
    ]
    for artifact, parity in results:
        for line in (parity.reason, parity.details.get("note")):
            if line:
                notes.append((_title(artifact, parity), parity.status, line))
    table = _table(results, columns, console)
    title = f"{report.bundle}: parity with the float64 reference, "
    table.title = Text(f"{title}{counted(report.slices, 'slice')} ({report.source})")
    console.print(table)
    if report.scores:
        console.print(local_table(report.artifacts, console))
    print_lines(
        console, *dict.fromkeys(_where(parity.ran_on) for parity in parities if parity.ran_on)
    )
    for file, status, reason in notes:
        console.print(
            f"[{colours[status]}]{status}[/] {escape(file)}: {escape(reason)}", soft_wrap=True
        )
    if report.scores:
        what = f"agreement with {report.labels}, 95 % bootstrap over slices"
        print_lines(console, f"Accuracy, not parity: {what}")
    for name, metrics, worst in measured(report):
        shown = ", ".join(f"{key} {interval(value)}" for key, value in metrics.items())
        print_lines(console, f"{name}: {shown}" + (f"; worst slice {worst}" if worst else ""))
    print_lines(console, *report.notes, *filter(None, [report.unjudged]))
    console.print(RESEARCH_USE)


def local_table(artifacts: Sequence[Artifact], console: Console) -> Table:
    """Return the table of differences of quality maps and novelty, for artifacts that ran."""
    results = [(a, p) for a, p in _results(artifacts) if p.worst_tile_difference is not None]
    parities = [parity for _, parity in results]
    flips = [p.in_domain_flips for p in parities]
    tiles = [_of_budget(p.worst_tile_difference, p.details.get("tile_budget")) for p in parities]
    novelties = [
        _of_budget(p.worst_novelty_difference, p.details.get("novelty_budget")) for p in parities
    ]
    columns = [
        Column("Δtile\n/ budget", tiles, 0),
        Column("Δnovelty\n/ budget", novelties, 1),
        Column("flips", ["not judged" if n is None else str(n) for n in flips], 2),
    ]
    for order, (name, short) in enumerate(zip(MAP_METRICS, ("corr.", "RMSE"), strict=True), 3):
        cells = [number(p.map_difference.get(name)) for p in parities]
        columns.append(Column(f"Δmap\n{short}", cells, order))
    return _table(results, columns, console)


def _table(
    results: Sequence[tuple[Artifact, Parity]], columns: list[Column], console: Console
) -> Table:
    """Return a table with a row for each result."""
    labels = [_title(artifact, parity).removeprefix("clinreadnet.") for artifact, parity in results]
    return fitted_table(console, "artifact", labels, columns, compact=True)


def measured(report: VerifyReport) -> Iterator[tuple[str, Mapping[str, Interval], str | None]]:
    """Yield name, metrics and worst slice of the reference and of each artifact that ran."""
    ran = [a for a in report.artifacts if a.parity and "metrics" in a.parity.details]
    for artifact in ran:
        assert artifact.parity is not None
        details = artifact.parity.details
        if artifact is ran[0]:
            theirs = _of_map(details.get("reference_map"))
            yield "reference", details["reference_metrics"] | theirs, None
        ours = _of_map(details.get("map"))
        yield artifact.title, details["metrics"] | ours, details.get("worst_slice")


def _results(artifacts: Iterable[Artifact]) -> Iterator[tuple[Artifact, Parity]]:
    for artifact in artifacts:
        yield artifact, artifact.parity or not_run(artifact)
        for parity in artifact.records:
            yield artifact, parity


def _title(artifact: Artifact, parity: Parity) -> str:
    """Return the title of an artifact, with the backend where another than ONNX Runtime ran it."""
    if artifact.kind != "onnx" or parity not in artifact.records or parity.ran_on is None:
        return artifact.title
    ran = parity.ran_on
    return f"{artifact.title} on the GPU" if ran.gpu else f"{artifact.title} {ran.backend}"


def _where(ran: RanOn) -> str:
    driver = "" if ran.driver is None else f", driver {ran.driver}"
    libraries = ", ".join(f"{name} {version}" for name, version in ran.libraries.items())
    return f"{ran.backend} ran on {ran.hardware}{driver} with {libraries}"


def _of_map(agreement: Mapping[str, Any] | None) -> dict[str, Interval]:
    if agreement is None:
        return {}
    return {f"map {name.replace('_', ' ')}": agreement[name] for name in MAP_METRICS}


def interval(value: Interval) -> str:
    """Return a value with its interval as text."""
    return f"{value['value']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"


def _error(parity: Parity) -> str:
    errors = [e for e in parity.relative_error.values() if e is not None]
    return (f"{max(errors):.1e} / " if errors else "") + number(parity.budget)


def _of_budget(value: float | None, budget: float | None) -> str:
    return "" if value is None or budget is None else f"{value:.0e} / {budget:.1e}"


def number(value: float | None) -> str:
    """Return a value as text, empty for None."""
    return "" if value is None else f"{value:.0e}"
