"""Run every exported kernel and mutants of it, and record how it went: `make ptx-check`.

What is recorded of a kernel stays while neither its PTX nor the machine changes, so a run that was
stopped goes on where it ended. The record is written after each kernel.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import triton

from bench.recording import RESULTS, current_commit
from clinreadnet.files import whole_file
from clinreadnet.machine import cpu_name
from support.ptx.cases import NETWORKS, PRECISIONS_RUN, TARGETS, cases, check, exported
from support.ptx.launch import Kernel
from support.ptx.mutants import KINDS, mutants, verdict

RECORD = RESULTS / "ptx" / "kernels.json"
MUTANTS = 20
"""Mutants of each kernel of ``MUTATED``."""
MUTATED = "small"
"""The network whose kernels are mutated."""


def machine_digest() -> str:
    """Return what changes with any file that decides how a kernel is run and broken."""
    support = Path(__file__).parents[1]
    files = [*support.glob("ptx/*.py"), *support.glob("ptx/instructions/*.py")]
    files = [path for path in files if path != Path(__file__)]
    files += [support / "oracles.py", support / "device_arithmetic.py"]
    files.sort()
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def run(kernel: Kernel, count: int) -> dict[str, Any]:
    """Run a kernel and ``count`` mutants of it.

    Raises:
        PtxError: the kernel does what no program may.
    """
    start = time.process_time()
    own = [(case, check(kernel, case)) for case in cases(kernel)]
    executed = frozenset[int]().union(*(found.executed for _, found in own))
    made: Counter[str] = Counter()
    how: Counter[str] = Counter()
    survivors = []
    for mutant in mutants(kernel, executed, count):
        found = verdict(kernel, mutant, own)
        made[mutant.kind] += 1
        if found.caught:
            how[found.caught] += 1
        else:
            survivors.append(
                {
                    "kind": mutant.kind,
                    "line": mutant.line,
                    "text": mutant.text,
                    "reason": found.reason,
                }
            )
    return {
        "instructions": len(kernel.program.code),
        "executed": len(executed),
        "error_over_budget": {case.name: round(one.over_budget, 3) for case, one in own},
        "mutants": {kind: made[kind] for kind in KINDS if made[kind]},
        "caught": dict(sorted(how.items())),
        "survivors": survivors,
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def kernels(networks: Sequence[str]) -> Iterator[tuple[str, Kernel]]:
    """Export and yield the kernels of networks, those that prove most for their time first."""
    with tempfile.TemporaryDirectory() as folder:
        for network in networks:
            for precision in PRECISIONS_RUN:
                for target in TARGETS:
                    out = Path(folder) / f"{network}-{target}-{precision}"
                    for kernel in exported(out, network, [target], [precision]):
                        yield network, kernel


def main(arguments: Sequence[str] | None = None) -> int:
    """Record every kernel; returns 1 if one is over its budget."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    head = {
        "command": "make ptx-check",
        "commit": current_commit(),
        "cpu": cpu_name(),
        "triton": triton.__version__,
        "machine": machine_digest(),
        "mutants_of_each": MUTANTS,
    }
    before = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    kept = before.get("kernels", {}) if before.get("machine") == head["machine"] else {}
    found: dict[str, Any] = {}
    complete = True
    for network, kernel in kernels(list(NETWORKS)):
        key = sha256(kernel.body.encode()).hexdigest()[:16]
        name = f"{network}/{kernel.file}"
        if key in found:
            found[key]["files"].append(name)
            continue
        count = MUTANTS if network == MUTATED else 0
        if key not in kept:
            if time.monotonic() > end:
                complete = False
                break
            kept[key] = run(kernel, count)
            print(name, kept[key]["error_over_budget"], kept[key]["caught"], file=sys.stderr)
        found[key] = kept[key] | {"files": [name]}
        _write(head | {"complete": False, "kernels": kept | found})
    _write(head | {"complete": complete, "kernels": found if complete else kept | found})
    over = [one["files"][0] for one in found.values() if max(one["error_over_budget"].values()) > 1]
    print("over their budgets:", ", ".join(over) or "none", file=sys.stderr)
    return 1 if over else 0


def _write(record: dict[str, Any]) -> None:
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(RECORD) as path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
