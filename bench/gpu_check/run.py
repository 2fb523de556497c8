"""Run the units of `gpu-check` within a time limit and merge their results."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.gpu_check.plan import REHEARSAL, ROOT, STEPS, Step, Unit

DONE = ("passed", "failed", "skipped")
SPARE_SECONDS = 5.0
"""Reserved seconds to end the last process and write its result."""
LEAST_SECONDS = 20.0
"""Least remaining seconds to start a unit."""
TAIL = 2000
"""Number of characters of a failed unit's output to keep."""


def run_unit(
    unit: Unit,
    out: Path,
    seconds: float | None = None,
    environment: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """Run a unit.

    Args:
        unit: unit to run.
        out: folder of the results.
        seconds: remaining time; None for only the limit of the unit.
        environment: environment variables of the process.

    Returns:
        ``status`` ("passed", "failed", "skipped" or "did not fit"), ``note``, ``seconds``. For
        pytest also counts of tests, and ``reasons``, the number of skipped tests by reason. With
        measurements, ``recorded`` is the JSON of pytest-benchmark. After a failure, ``output`` is
        included.
    """
    if missing := unit.missing():
        return {"status": "skipped", "note": f"needs {', '.join(missing)}"}
    if not unit.rehearsed and environment.get(REHEARSAL) == "1":
        return {"status": "skipped", "note": "needs an NVIDIA GPU"}
    if unit.tool and shutil.which(unit.tool[0], path=environment.get("PATH")) is None:
        return {"status": "skipped", "note": f"{unit.tool[0]} is not installed"}
    limit = unit.limit if seconds is None else min(unit.limit, seconds)
    with tempfile.TemporaryDirectory() as folder:
        report, recorded = Path(folder) / "tests.xml", Path(folder) / "bench.json"
        command = unit.command(out)
        if unit.tests:
            command.append(f"--junitxml={report}")
        if unit.measures:
            command.append(f"--benchmark-json={recorded}")
        start = time.monotonic()
        status, output = _run(command, limit, {**environment, **unit.environment})
        result: dict[str, Any] = {"seconds": round(time.monotonic() - start)}
        if status is None:
            own = limit == unit.limit
            note = f"ended after its limit of {limit:.0f} s" if own else "out of time"
            return result | {"status": "failed" if own else "did not fit", "note": note}
        if unit.tests:
            result |= counts(report) if report.exists() else {"passed": 0, "failed": 0}
        result |= verdict(unit, status, result)
        if result["status"] == "failed":
            result["output"] = output[-TAIL:]
        if recorded.exists() and recorded.stat().st_size:
            result["recorded"] = json.loads(recorded.read_text("utf-8"))
    return result


def _run(
    command: list[str], limit: float, environment: Mapping[str, str]
) -> tuple[int | None, str]:
    """Return the exit status (None after a timeout) and the output, which is also printed."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        # Kill its children too: compilers run for minutes and block the GPU.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


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

    Args:
        steps: steps to run, in order.
        path: file of results, written after each unit.
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
        result = run_unit(unit, path.parent, left, environment)
        # Write after each unit, to keep measurements if the next one fails.
        document = merged(document, name, unit.name, result)
        _write(path, document)
        say(f"gpu-check: {name}: {unit.name}: {result['status']} {result['note']}".rstrip())
        for line in result.get("output", "").splitlines():
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


def _units(steps: Mapping[str, Step]) -> Iterable[tuple[str, Unit]]:
    return ((name, unit) for name, step in steps.items() for unit in step.units)


def _write(path: Path, document: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
