"""Read recorded runs and format them as tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import recording
from bench.report.tables import Table
from bench.results import RecordedRun, read_run, result_files


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return Table(tuple(head), tuple(map(tuple, rows))).markdown()


def source(run: Mapping[str, Any]) -> str:
    """Return command, commit and processor of a record, for the line below its table."""
    return f"`{run['command']}`, commit {run['commit'][:7]}, {run['cpu']}"


def newest(module: str) -> list[RecordedRun]:
    """Return the newest recorded run of a bench module on each machine."""
    runs: dict[str, tuple[str, Path]] = {}
    for path in result_files(recording.RESULTS):
        document = read_json(path)
        if any(module in benchmark["fullname"] for benchmark in document.get("benchmarks", [])):
            machine, run = path.parent.name, (document.get("datetime", ""), path)
            runs[machine] = max(runs.get(machine, run), run)
    return [read_run(path) for _, path in runs.values()]


def where(run: RecordedRun) -> str:
    """Return the path of a run's file from the root of the repository."""
    return run.path.relative_to(recording.ROOT).as_posix()


def link(run: RecordedRun) -> str:
    """Return a link to a run's file from a page in docs/."""
    return f"[{run.path.stem}](../{where(run)})"


def by_machine(module: str, make: Callable[[RecordedRun], Table]) -> str:
    """Return a table for each machine, under its name and a link to the recorded run."""
    parts = [f"{run.hardware}, {link(run)}:\n\n{make(run).markdown()}" for run in newest(module)]
    return "\n".join(parts) or "Not measured.\n"
