"""Read the hardware counters of the kernels that take most of the network's graph, with ncu."""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.gpu_check.plan import ROOT
from bench.sweeps.graph import by_kernel

KERNELS = 3
"""Number of kernels to profile."""
LAUNCHES = 40
"""Largest number of launches to profile."""
SECTIONS = (
    *("SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis"),
    *("Occupancy", "LaunchStats", "SchedulerStats", "WarpStateStats"),
)
BATCH = 64
_IDENTITY = ("ID", "Kernel Name", "Grid Size", "Block Size")


def longest(results: Path) -> list[str]:
    """Return the kernels that take most of the newest recorded graph.

    Raises:
        ValueError: no file of the folder has a graph.
    """
    for path in sorted(results.glob("*.json"), reverse=True):
        units = json.loads(path.read_text("utf-8")).get("checks", {}).get("graph", {})
        rows = [row for unit in units.get("units", {}).values() for row in unit.get("rows", [])]
        if kernels := by_kernel([row for row in rows if row["batch"] == BATCH]):
            return list(kernels)[:KERNELS]
    raise ValueError(f"{results}: no recorded graph; run the step `graph` first")


def command(kernels: Sequence[str]) -> list[str]:
    """Return the command that profiles kernels of one run of the network."""
    names = "|".join(re.escape(kernel) for kernel in kernels)
    return [
        "ncu",
        *("--clock-control", "none", "--csv", "--page", "details"),
        *(part for section in SECTIONS for part in ("--section", section)),
        *("--kernel-name-base", "demangled", "--kernel-name", f"regex:^({names})$"),
        *("--launch-count", str(LAUNCHES)),
        *(sys.executable, "-m", "bench.sweeps.graph", "--batch", str(BATCH), "--once"),
    ]


def rows_of(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return a row for each profiled launch, from the CSV that ncu prints."""
    table = [line for line in lines if line.startswith('"')]
    rows: dict[str, dict[str, Any]] = {}
    for cells in csv.DictReader(table):
        identity = {name: cells[name] for name in _IDENTITY}
        row = rows.setdefault(cells["ID"], {**identity, "metrics": {}})
        if cells["Metric Name"]:
            name = f"{cells['Section Name']}: {cells['Metric Name']}"
            row["metrics"][name] = f"{cells['Metric Value']} {cells['Metric Unit']}".strip()
    return list(rows.values())


def main(arguments: Sequence[str]) -> int:
    """Profile the kernels; return ncu's exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check.counters", description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of recorded results")
    parser.add_argument("--rows", type=Path, required=True, help="file to append rows to")
    options = parser.parse_args(arguments)
    done = subprocess.run(
        command(longest(options.results)), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    print(done.stdout)
    with options.rows.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows_of(done.stdout.splitlines()))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
