"""Run the units of `gpu-check` within a time limit and merge their results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.gpu_check.plan import PATIENCE, REHEARSAL, ROOT, ROWS, STEPS, Step, Unit

DONE = ("passed", "failed", "skipped")
SPARE_SECONDS = 5.0
"""Reserved seconds to end the last process and write its result."""
LEAST_SECONDS = 20.0
"""Least remaining seconds to start a unit."""
TAIL = 2000
"""Number of characters at the end of a unit's output that its result keeps."""
RECORDED, REPORT = "running-bench", "running-tests"
"""Files like ``ROWS``, for pytest-benchmark and for pytest."""


def run_unit(
    unit: Unit,
    out: Path,
    seconds: float | None = None,
    environment: Mapping[str, str] = os.environ,
    log: Path | None = None,
) -> dict[str, Any]:
    """Run a unit.

    Args:
        unit: unit to run.
        out: folder of the results.
        seconds: remaining time; None for ``PATIENCE`` times the limit of the unit.
        environment: environment variables of the process.
        log: file to append the output to; default ``gpu-check.log`` in ``out``.

    Returns:
        ``status`` ("passed", "failed", "skipped" or "did not fit"), ``note``, ``seconds`` and
        ``output``, the end of the output. For pytest also counts of tests, and ``reasons``, the
        number of skipped tests by reason. ``rows`` are the rows that the unit appended to its
        file, and ``recorded`` is the JSON of pytest-benchmark; a unit that is stopped keeps both.
    """
    if missing := unit.missing():
        return {"status": "skipped", "note": f"needs {', '.join(missing)}"}
    rehearsed = environment.get(REHEARSAL) == "1"
    if rehearsed and not unit.rehearsed:
        return {"status": "skipped", "note": "needs an NVIDIA GPU"}
    if lacking := unit.lacking(environment.get("PATH")):
        return {"status": "skipped", "note": f"{', '.join(lacking)} is not installed"}
    own_limit = unit.limit * (PATIENCE if seconds is None else 1)
    limit = own_limit if seconds is None else min(own_limit, seconds)
    report, recorded, rows = out / REPORT, out / RECORDED, out / ROWS
    for path in (report, recorded, rows):
        path.unlink(missing_ok=True)
    command = unit.command(out, rehearsed)
    if unit.tests:
        command.append(f"--junitxml={report}")
    if unit.measures:
        command.append(f"--benchmark-json={recorded}")
    log = log or out / "gpu-check.log"
    start = time.monotonic()
    status, output = _run(command, limit, {**environment, **unit.environment}, log)
    result: dict[str, Any] = {"seconds": round(time.monotonic() - start), "output": output}
    if unit.tests and report.exists() and report.stat().st_size:
        result |= counts(report)
    elif unit.tests:
        result |= {"passed": 0, "failed": 0}
    if status is None:
        own = limit == own_limit
        note = f"ended after its limit of {limit:.0f} s" if own else "out of time"
        result |= _said("failed" if own else "did not fit", note)
    else:
        result |= verdict(unit, status, result)
    if rows.exists():
        result["rows"] = [json.loads(line) for line in _whole_lines(rows)]
    with suppress(FileNotFoundError, ValueError):  # killed while it was written
        result["recorded"] = json.loads(recorded.read_text("utf-8"))
    for path in (report, recorded, rows):
        path.unlink(missing_ok=True)
    return result


def _run(
    command: list[str], limit: float, environment: Mapping[str, str], log: Path
) -> tuple[int | None, str]:
    """Append the output to a log; return the exit status (None after a timeout) and its end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        start = file.tell()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            # Kill its children too: compilers run for minutes and block the GPU.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 4 * TAIL))
        return status, file.read().decode("utf-8", "replace")[-TAIL:]


def _whole_lines(path: Path) -> list[str]:
    """Return the lines of a file without the last, if a killed process wrote a part of it."""
    return path.read_text("utf-8").split("\n")[:-1]


def verdict(unit: Unit, status: int, counted: Mapping[str, Any]) -> dict[str, str]:
    """Return status and note of a unit that ended by itself."""
    if not unit.tests:
        return _said("failed", f"exit status {status}") if status else _said("passed")
    if status not in (0, 5) or counted.get("failed"):
        return _said("failed", f"exit status {status}")
    if counted.get("passed"):
        return _said("passed")
    if reasons := counted.get("reasons"):
        return _said("skipped", "; ".join(reasons))
    return _said("failed", "no test was selected")


def _said(status: str, note: str = "") -> dict[str, str]:
    return {"status": status, "note": note}


def counts(report: Path) -> dict[str, Any]:
    """Return the number of passed, failed and skipped tests in a JUnit file, with reasons."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    counted: dict[str, Any] = {
        "passed": total - failed - skipped,
        "failed": failed,
        "skipped": skipped,
    }
    reasons = Counter(element.get("message", "no reason") for element in suite.iter("skipped"))
    return counted | ({"reasons": dict(reasons)} if reasons else {})


def merged(before: Mapping[str, Any], name: str, unit: str, result: Mapping[str, Any]) -> Any:
    """Add the result of a unit. Its benchmarks replace those of the same name."""
    result = dict(result)
    recorded = result.pop("recorded", {})
    after = {**before, **{key: recorded[key] for key in recorded if key != "benchmarks"}}
    if rates := before.get("machine_info", {}).get("rates"):
        after["machine_info"] = {"rates": rates, **after["machine_info"]}
    new = {row["fullname"]: row for row in recorded.get("benchmarks", [])}
    kept = [row for row in before.get("benchmarks", []) if row["fullname"] not in new]
    after["benchmarks"] = [*kept, *new.values()]
    checks = {**before.get("checks", {})}
    units = {**checks.get(name, {}).get("units", {}), unit: result}
    checks[name] = {"what": STEPS[name].what if name in STEPS else name, "units": units}
    return after | {"checks": checks}


def run_steps(
    steps: Mapping[str, Step],
    path: Path,
    *,
    minutes: float | None = None,
    again: bool = False,
    environment: Mapping[str, str] = os.environ,
    say: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Run the units that are not in ``path`` yet, and write their results there.

    The output of all units is appended to the log beside it.

    Args:
        steps: steps to run, in order.
        path: file of results, written after each unit; the log has the suffix ".log".
        minutes: time limit for all units; None for no limit.
        again: also run units with results.
        environment: environment variables of the processes.
        say: function that prints a line.
        clock: function that returns the time in seconds.

    Returns:
        0 if all executed units passed, 1 if a unit failed, 3 if the time was too short for some.
    """
    end = None if minutes is None else clock() + 60 * minutes - SPARE_SECONDS
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.with_suffix(".log")
    document = json.loads(path.read_text("utf-8")) if path.exists() else {}
    waiting, statuses = [], Counter[str]()
    for name, unit in _units(steps):
        known = document.get("checks", {}).get(name, {}).get("units", {}).get(unit.name, {})
        if known.get("status") in DONE and not again:
            statuses[known["status"]] += 1
            continue
        left = None if end is None else end - clock()
        if left is not None and left < LEAST_SECONDS:
            waiting.append(f"{name}: {unit.name}")
            continue
        say(f"gpu-check: {name}: {unit.name}")
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n== {name}: {unit.name}: {' '.join(unit.command(path.parent))}\n")
        result = run_unit(unit, path.parent, left, environment, log)
        # Write after each unit, to keep measurements if the next one fails.
        document = merged(document, name, unit.name, result)
        _write(path, document)
        say(f"gpu-check: {name}: {unit.name}: {result['status']} {result['note']}".rstrip())
        for line in shown(result):
            say(f"    {line}")
        if result["status"] == "did not fit":
            waiting.append(f"{name}: {unit.name}")
        else:
            statuses[result["status"]] += 1
    say("gpu-check: units: " + ", ".join(f"{statuses[status]} {status}" for status in DONE))
    if waiting:
        say(f"gpu-check: did not fit, run again to go on: {'; '.join(waiting)}")
    if statuses["failed"]:
        return 1
    return 3 if waiting else 0


def shown(result: Mapping[str, Any]) -> list[str]:
    """Return what to print of a unit: each of its rows, and its output after a failure."""
    rows = [json.dumps(row) for row in result.get("rows", [])]
    return rows if result["status"] == "passed" else [*rows, *result.get("output", "").splitlines()]


def _units(steps: Mapping[str, Step]) -> Iterable[tuple[str, Unit]]:
    return ((name, unit) for name, step in steps.items() for unit in step.units)


def _write(path: Path, document: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
