"""Read recorded runs: `<machine>/<date>-<commit>.json` in pytest-benchmark's format.

The fields of a row are in ``extra_info`` (`bench.rows`). Other benchmarks in a file are used by
`bench/tables`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.rows import ArrivalRow, BenchRow, ColdStartRow, KernelRow, OpRow, RecordedRow
from clinreadnet.errors import InputError, first_line
from clinreadnet.files import read_regular

LARGEST = 64 * 2**20
"""Largest size of a file in bytes. A complete run has 250 kB."""
SCHEMA = 1
"""Version of the format of ``extra_info``, stored as ``results_schema``."""

Kind = TypeVar("Kind", bound=RecordedRow)

_NAME = re.compile(r"\d{4}-\d{2}-\d{2}-[0-9a-z]+\.json")
_UNREADABLE = (ValueError, RecursionError, KeyError, TypeError, AttributeError)
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class RecordedRun:
    """A recorded file.

    Attributes:
        machine: name of the folder.
        path: path of the file.
        document: content of the file.
        commit: measured commit; 7 to 40 hexadecimal digits.
        rows: rows of the network.
        cold_starts: rows of loading and first run in a new process.
        arrivals: rows of slices that arrive at a stream.
        ops: rows of the network's ops on the processor.
        kernels: rows of the kernels on a GPU.
    """

    machine: str
    path: Path
    document: Mapping[str, Any]
    commit: str
    rows: tuple[BenchRow, ...]
    cold_starts: tuple[ColdStartRow, ...]
    arrivals: tuple[ArrivalRow, ...]
    ops: tuple[OpRow, ...]
    kernels: tuple[KernelRow, ...]

    @property
    def hardware(self) -> str:
        """Name of the GPU, or of the processor and its threads."""
        return hardware(self.document["machine_info"])

    @property
    def called(self) -> str:
        """Short name of ``hardware``."""
        return called(self.hardware)

    @property
    def gpu(self) -> str | None:
        """Name of the GPU, or None."""
        gpu: str | None = self.document["machine_info"].get("gpu")
        return gpu

    @property
    def rates(self) -> Mapping[str, float]:
        """Rates measured at the start: ``copy`` in bytes/s, matmul by precision in FLOP/s."""
        rates: Mapping[str, float] = self.document["machine_info"].get("rates", {})
        return rates


def hardware(machine_info: Mapping[str, Any]) -> str:
    """Return the name of the GPU, or of the processor and its threads."""
    cpu = machine_info["cpu"]
    return str(machine_info.get("gpu") or f"{cpu['brand_raw']}, {cpu['count']} threads")


def called(hardware: str) -> str:
    """Return the name of a processor or a GPU without trademarks and generic words."""
    words = re.sub(
        r"\((?:R|TM)\)|\b(?:CPU|Processor|with Radeon Graphics)\b|@ ?[\d.]+ ?GHz", " ", hardware
    )
    return re.sub(r"\s+(?=,|$)", "", " ".join(words.split()))


def result_files(results: str | os.PathLike[str]) -> list[Path]:
    """Return every recorded file below the folder ``results``, by machine and date."""
    return [path for path in sorted(Path(results).glob("*/*.json")) if _NAME.fullmatch(path.name)]


def _document(path: Path) -> Any:
    return json.loads(read_regular(path, LARGEST).decode("utf-8"))


def read_run(path: Path) -> RecordedRun:
    """Read one recorded file.

    Raises:
        InputError: the file is not regular, not JSON, has another schema or an unknown commit.
    """
    try:
        document = _document(path)
        known = isinstance(document, dict) and isinstance(document.get("benchmarks"), list)
    except (ValueError, RecursionError) as error:
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
    info = document.get("commit_info")
    commit = str(info.get("id") if isinstance(info, dict) else None)
    if not _COMMIT.fullmatch(commit):
        raise InputError(
            f"{path}: its commit is unknown ({commit}); run `make bench-record` in a git checkout"
        )
    try:
        facts = [benchmark["extra_info"] for benchmark in document["benchmarks"]]
        run = RecordedRun(
            path.parent.name,
            path,
            document,
            commit,
            _rows(BenchRow, facts),
            _rows(ColdStartRow, facts),
            _rows(ArrivalRow, facts),
            _rows(OpRow, facts),
            _rows(KernelRow, facts),
        )
        if not run.hardware or (run.rows and "copy" not in run.rates):
            raise KeyError("machine_info.rates")
    except _UNREADABLE as error:
        reason = f"{type(error).__name__} {error}"
        raise InputError(
            f"{path}: breaks results schema {SCHEMA} ({reason}); run `make bench-record`"
        ) from None
    return run


def _rows(kind: type[Kind], recorded: Sequence[Mapping[str, Any]]) -> tuple[Kind, ...]:
    return tuple(kind.from_json(facts) for facts in recorded if kind.holds(facts))


def newest_runs(results: str | os.PathLike[str], machine: str | None = None) -> list[RecordedRun]:
    """Return the newest recorded run of the network on each machine.

    Args:
        results: the folder `bench/results`.
        machine: name of a folder in it; default all.

    Raises:
        InputError: there is no recorded run, or the newest file of a machine is invalid.
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
    """Return whether a file may contain rows of the network. `read_run` reports errors."""
    try:
        benchmarks = _document(path)["benchmarks"]
        return not benchmarks or any(
            BenchRow.holds(benchmark["extra_info"]) for benchmark in benchmarks
        )
    except (InputError, *_UNREADABLE):
        return True


def _recorded(path: Path) -> str:
    """Return the time of recording, or the date in the file name."""
    try:
        return str(_document(path)["datetime"])
    except (InputError, *_UNREADABLE):
        return path.name
