"""Recorded benchmark runs: `<machine>/<date>-<commit>.json`, pytest-benchmark's format.

What a row of the network says stands in its ``extra_info`` (`Row`); docs/benchmarking.md names the
fields. Anything else in a file belongs to the tables of `bench/tables.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinreadnet.errors import InputError, first_line

SCHEMA = 1
"""Version of what ``extra_info`` holds, written as ``results_schema`` into every file."""

RESULTS = Path("bench") / "results"

_NAME = re.compile(r"\d{4}-\d{2}-\d{2}-[0-9a-z]+\.json")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class Row:
    """One candidate at one batch.

    Attributes:
        name: of the benchmark: what `bench-check` compares.
        candidate: backend, or what a user would pick instead of it.
        role: "artifact" of the bundle, "reference" network in PyTorch, or a "peer".
        precision: as in a manifest.
        batch: slices of one run.
        clock: "host" (slices and outputs in host memory), "device" (CUDA events) or "device graph"
            (the same in a CUDA graph).
        p50, p90, p99: seconds of one run.
        low, high: 95 % interval of ``p50``.
        n: runs that were timed.
        variation: coefficient of variation.
        marks: what speaks against trusting the row; empty where nothing does.
        flops, bytes_moved: what one run must compute and move at least.
        percent_of_limit: of the machine's roofline.
        ratio: baseline's time over this one's, with its interval, or None.
        baseline: what ``ratio`` compares with.
        artifact: file in the bundle, or None, and
        sha256: its digest.
        score_difference: worst difference of one slice's score from the float64 reference, on the
            golden slices that were run before the timing.
    """

    name: str
    candidate: str
    role: str
    precision: str
    batch: int
    clock: str
    p50: float
    p90: float
    p99: float
    low: float
    high: float
    n: int
    variation: float
    marks: tuple[str, ...]
    flops: float
    bytes_moved: float
    percent_of_limit: float
    ratio: tuple[float, float, float] | None
    baseline: str | None
    artifact: str | None
    sha256: str | None
    score_difference: float

    @property
    def title(self) -> str:
        """Candidate and precision."""
        return f"{self.candidate} {self.precision}"

    @property
    def throughput(self) -> float:
        """Slices a second."""
        return self.batch / self.p50


@dataclass(frozen=True)
class Run:
    """One recorded file.

    Attributes:
        machine: name of its folder.
        path: the file.
        document: all of it.
        commit: what was measured; 7 to 40 hexadecimal digits.
        rows: those of the network.
    """

    machine: str
    path: Path
    document: Mapping[str, Any]
    commit: str
    rows: tuple[Row, ...]

    @property
    def hardware(self) -> str:
        """GPU, or processor and threads, in words."""
        return hardware(self.document["machine_info"])

    @property
    def rates(self) -> Mapping[str, float]:
        """Measured at the start: ``copy`` in bytes/s, the precisions' matmuls in FLOP/s."""
        rates: Mapping[str, float] = self.document["machine_info"].get("rates", {})
        return rates


def hardware(machine_info: Mapping[str, Any]) -> str:
    """Return the GPU, or the processor and its threads, in words."""
    cpu = machine_info["cpu"]
    return str(machine_info.get("gpu") or f"{cpu['brand_raw']}, {cpu['count']} threads")


def result_files(results: str | os.PathLike[str]) -> list[Path]:
    """Return every recorded file below the folder ``results``, by machine and date."""
    return [path for path in sorted(Path(results).glob("*/*.json")) if _NAME.fullmatch(path.name)]


def read_run(path: Path) -> Run:
    """Read one recorded file.

    Raises:
        InputError: not JSON, another schema, or a commit that is not known.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        known = isinstance(document, dict) and isinstance(document.get("benchmarks"), list)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({first_line(error)}); run `make bench-record`"
        ) from None
    if not known:
        raise InputError(f"{path}: not a file of pytest-benchmark; run `make bench-record`")
    schema = document.get("results_schema", 0)
    if schema != SCHEMA:
        raise InputError(
            f"{path}: results schema {schema}, this clinreadnet reads {SCHEMA}; "
            "run `make bench-record`"
        )
    commit = str((document.get("commit_info") or {}).get("id"))
    if not _COMMIT.fullmatch(commit):
        raise InputError(
            f"{path}: its commit is unknown ({commit}); run `make bench-record` in a git checkout"
        )
    try:
        rows = tuple(
            _row(one) for one in document["benchmarks"] if one["extra_info"].get("op") == "network"
        )
        run = Run(path.parent.name, path, document, commit, rows)
        if not run.hardware or (rows and "copy" not in run.rates):
            raise KeyError("machine_info.rates")
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}"
        raise InputError(
            f"{path}: breaks results schema {SCHEMA} ({reason}); run `make bench-record`"
        ) from None
    return run


def newest_runs(results: str | os.PathLike[str], machine: str | None = None) -> list[Run]:
    """Return the newest recorded run of the network on each machine.

    Args:
        results: the folder `bench/results`.
        machine: name of one folder in it; all of them by default.

    Raises:
        InputError: nothing recorded yet, or the newest file of a machine cannot be used.
    """
    newest: dict[str, tuple[str, Path]] = {}
    for path in result_files(results):
        if machine in (None, path.parent.name) and _may_hold_rows(path):
            candidate = (_recorded(path), path)
            newest[path.parent.name] = max(newest.get(path.parent.name, candidate), candidate)
    if not newest:
        where = Path(results) if machine is None else Path(results) / machine
        raise InputError(f"{where}: no results yet; run `make bench-record`")
    return [read_run(path) for _, path in newest.values()]


def _may_hold_rows(path: Path) -> bool:
    """Whether a file is more than a run of other benches; what is wrong in it is for `read_run`."""
    try:
        benchmarks = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
        return not benchmarks or any(one["extra_info"].get("op") == "network" for one in benchmarks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True


def _recorded(path: Path) -> str:
    """Return when a file was recorded; its name's date where it cannot be read."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["datetime"])
    except (OSError, ValueError, KeyError, TypeError):
        return path.name


def _row(one: Mapping[str, Any]) -> Row:
    extra = one["extra_info"]
    ratio = extra.get("ratio")
    low, high = extra["interval"]
    return Row(
        name=one["name"],
        candidate=extra["candidate"],
        role=extra["role"],
        precision=extra["precision"],
        batch=int(extra["batch"]),
        clock=extra["clock"],
        p50=float(extra["p50"]),
        p90=float(extra["p90"]),
        p99=float(extra["p99"]),
        low=float(low),
        high=float(high),
        n=int(extra["n"]),
        variation=float(extra["variation"]),
        marks=tuple(extra["marks"]),
        flops=float(extra["flops"]),
        bytes_moved=float(extra["bytes"]),
        percent_of_limit=float(extra["percent_of_limit"]),
        ratio=None if ratio is None else (float(ratio[0]), float(ratio[1]), float(ratio[2])),
        baseline=extra.get("baseline"),
        artifact=extra.get("artifact"),
        sha256=extra.get("sha256"),
        score_difference=float(extra["score_difference"]),
    )
