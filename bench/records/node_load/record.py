"""Measure the node and record it: `make node-load`, or with fewer objects

    PYTHONPATH=tests python -m bench.records.node_load.record --objects 1000 --cases 100

Status 1: a slice was lost or scored twice, invalid input was accepted, or a limit was exceeded.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from support.tiny_bundle import write_bundle

from bench.recording import print_record, run_facts
from bench.records.node_load import phases

MEMORY_PERCENT = 10.0
OVERHEAD_PERCENT = 10.0
PHASES = ("steady", "faults", "full-disk", "nonsense", "cost")


def failures(result: dict[str, Any]) -> list[str]:
    """Return messages about failed requirements."""
    messages = []
    for name in ("steady", "faults", "full-disk"):
        phase = result.get(name)
        if not isinstance(phase, dict):
            continue
        messages += [
            f"{name}: {phase[key]} {key.replace('_', ' ')}"
            for key in ("lost", "scored_twice", "unknown")
            if phase[key]
        ]
        if phase.get("database", "ok") != "ok":
            messages.append(f"{name}: the database is damaged")
    steady, cost = result.get("steady"), result.get("cost")
    if steady and steady["resident_percent"] > MEMORY_PERCENT:
        messages.append(f"memory moved by {steady['resident_percent']} %")
    if isinstance(disk := result.get("full-disk"), dict) and not disk["refused"].get("A700"):
        messages.append("full-disk: nothing was refused with A700")
    if (nonsense := result.get("nonsense")) and nonsense["accepted"]:
        messages.append(f"nonsense: {nonsense['accepted']} accepted")
    if cost and cost["overhead_percent"] > OVERHEAD_PERCENT:
        messages.append(f"the node costs {cost['overhead_percent']} % more than score")
    return messages


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the record as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=10_000, help="of both loads")
    parser.add_argument("--associations", type=int, default=8)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--cases", type=int, default=1000, help="random data sets and PDUs")
    parser.add_argument("--slices", type=int, default=24, help="of a series with the network")
    parser.add_argument("--repeats", type=int, default=5, help="of such a series")
    parser.add_argument("--bundle", type=Path, default=Path("bundle"), help="of the network")
    parser.add_argument("--only", choices=PHASES, action="append")
    options = parser.parse_args(arguments)
    wanted = options.only or PHASES
    result: dict[str, Any] = {
        **run_facts(
            " ".join(["python -m bench.records.node_load.record", *(arguments or sys.argv[1:])])
        ),
        "pynetdicom": version("pynetdicom"),
        "load_average_before": round(os.getloadavg()[0], 2),
    }
    with tempfile.TemporaryDirectory() as place:
        tiny = write_bundle(Path(place) / "tiny")
        for name in wanted:
            print(f"node-load: {name}", file=sys.stderr, flush=True)
            if name == "steady":
                result[name] = phases.steady(tiny, options.objects, options.associations)
            elif name == "faults":
                result[name] = phases.faults(
                    tiny, options.objects, options.associations, options.kills
                )
            elif name == "full-disk":
                result[name] = phases.full_disk(tiny)
            elif name == "nonsense":
                result[name] = phases.nonsense(tiny, options.cases)
            else:
                result[name] = phases.cost(options.bundle, options.slices, options.repeats)
            print(f"node-load: {name}: {_brief(result[name])}", file=sys.stderr, flush=True)
    result["failures"] = failures(result)
    print_record(result)
    for line in result["failures"]:
        print(f"node-load: {line}", file=sys.stderr)
    return 1 if result["failures"] else 0


def _brief(phase: Any) -> Any:
    if not isinstance(phase, dict):
        return phase
    return {key: value for key, value in phase.items() if key not in ("samples", "kinds")}


if __name__ == "__main__":
    sys.exit(main())
