"""Run all exported kernels and their mutants, and record the results: `make ptx-check`.

Further networks cover configurations that no preset has: all window sizes of the configuration
files, heads of 32 channels, four octaves.

With options, `python -m bench.records.ptx` records a part, such as a target without mutants, or the
code of another Triton, in another file.

The tests of the code that Triton's launcher makes run first, and the record counts them.

The result of a kernel is kept while its PTX and the machine are unchanged, so a stopped run can be
continued. The record is written after each kernel.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import triton

import clinreadnet.kernels.ptx
from bench.gpu_check.run import counts
from bench.recording import RESULTS, ROOT, run_facts, write_record
from bench.records.mutants import KINDS, mutants, verdict
from clinreadnet.export.check_kernels import read_kernels
from clinreadnet.export.kernels import export_kernels
from clinreadnet.kernels.ptx.cases import cases, check
from clinreadnet.kernels.ptx.launch import Kernel
from clinreadnet.model.network import PRESETS, ClinReadNetConfig

RECORD = RESULTS / "ptx" / "kernels.json"
MUTANTS = 20
"""Number of mutants of each kernel of ``MUTATED``."""
MUTATED = "small"
"""Network whose kernels are mutated."""


def _network(name: str, embed_dim: int, heads: int, window: int, octaves: int = 3) -> Any:
    return ClinReadNetConfig(
        name, embed_dim, depths=(2,), heads=(heads,), window=window, octaves=octaves
    )


NETWORKS = {
    "small": PRESETS["small"],
    "window-4": _network("window-4", 48, 3, 4),
    "window-5": _network("window-5", 32, 1, 5, octaves=4),
    "window-7": _network("window-7", 96, 3, 7, octaves=2),
    "window-11": _network("window-11", 32, 1, 11, octaves=4),
    "window-16": _network("window-16", 32, 1, 16, octaves=4),
}
"""Networks by name. On sm_75, only those with windows up to 8 run."""

TARGETS = ("sm80", "sm90", "sm75", "sm120", "sm89")
PRECISIONS_RUN = ("fp16", "fp32", "bf16")


@contextmanager
def known_networks() -> Iterator[None]:
    """Register `NETWORKS` for the export of kernels inside the block."""
    with patch.dict(PRESETS, NETWORKS):
        yield


def exported(folder: Path, network: str, targets: list[str], precisions: list[str]) -> list[Kernel]:
    """Export the kernels of one of `NETWORKS` and read them."""
    with known_networks():
        export_kernels(
            folder, formats=["ptx"], targets=targets, precisions=precisions, preset=network
        )
    return read_kernels(folder)


def machine_digest() -> str:
    """Return a hash of the files that determine how a kernel is run and mutated."""
    files = [*Path(clinreadnet.kernels.ptx.__file__).parent.rglob("*.py")]
    files.append(Path(__file__).with_name("mutants.py"))
    files.sort()
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def run(kernel: Kernel, count: int) -> dict[str, Any]:
    """Run a kernel and ``count`` mutants.

    Raises:
        PtxError: the kernel is faulty.
    """
    start = time.process_time()
    own = [(case, check(kernel, case)) for case in cases(kernel)]
    executed = frozenset[int]().union(*(outcome.executed for _, outcome in own))
    made: Counter[str] = Counter()
    how: Counter[str] = Counter()
    survivors = []
    for mutant in mutants(kernel, executed, count):
        outcome = verdict(kernel, mutant, own)
        made[mutant.kind] += 1
        if outcome.caught:
            how[outcome.caught] += 1
        else:
            survivors.append(
                {
                    "kind": mutant.kind,
                    "line": mutant.line,
                    "text": mutant.text,
                    "reason": outcome.reason,
                }
            )
    return {
        "instructions": len(kernel.program.code),
        "executed": len(executed),
        "error_over_budget": {case.name: round(outcome.over_budget, 3) for case, outcome in own},
        "mutants": {kind: made[kind] for kind in KINDS if made[kind]},
        "caught": dict(sorted(how.items())),
        "survivors": survivors,
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def kernels(networks: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[str, Kernel]]:
    """Export and yield the kernels of networks, most informative first."""
    with tempfile.TemporaryDirectory() as folder:
        for network in networks:
            for precision in PRECISIONS_RUN:
                for target in targets:
                    out = Path(folder) / f"{network}-{target}-{precision}"
                    for kernel in exported(out, network, [target], [precision]):
                        yield network, kernel


def launched() -> dict[str, Any]:
    """Test the code of Triton's launcher, which specialises sizes; return the numbers of tests."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        tests = ["tests/kernels/ptx/test_launched.py", f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        subprocess.run(command, cwd=ROOT, stdout=sys.stderr)
        return counts(report)


def main(arguments: Sequence[str] | None = None) -> int:
    """Record every kernel; return 1 if one exceeds its budget."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=tuple(NETWORKS))
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--mutants", type=int, default=MUTANTS, help="mutants of each kernel")
    parser.add_argument("--out", type=Path, default=RECORD, help="record to write or continue")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    recorded = options.network, options.target, options.mutants
    if recorded != (tuple(NETWORKS), TARGETS, MUTANTS) and options.out == RECORD:
        parser.error("a part needs --out: it would replace the record of the whole")
    end = time.monotonic() + 60 * options.minutes
    head = {
        **run_facts(
            " ".join(["python -m bench.records.ptx", *given]) if given else "make ptx-check"
        ),
        "triton": triton.__version__,
        "machine": machine_digest(),
        "mutants_of_each": options.mutants,
        "launched": launched(),
    }
    before = json.loads(options.out.read_text()) if options.out.exists() else {}
    kept = before.get("kernels", {}) if before.get("machine") == head["machine"] else {}
    kernels_run: dict[str, Any] = {}
    complete = True
    for network, kernel in kernels(options.network, options.target):
        key = sha256(kernel.body.encode()).hexdigest()[:16]
        name = f"{network}/{kernel.file}"
        if key in kernels_run:
            kernels_run[key]["files"].append(name)
            continue
        count = options.mutants if network == MUTATED else 0
        if key not in kept:
            if time.monotonic() > end:
                complete = False
                break
            kept[key] = run(kernel, count)
            print(name, kept[key]["error_over_budget"], kept[key]["caught"], file=sys.stderr)
        kernels_run[key] = kept[key] | {"files": [name]}
        write_record(options.out, head | {"complete": False, "kernels": kept | kernels_run})
    rows = kernels_run if complete else kept | kernels_run
    write_record(options.out, head | {"complete": complete, "kernels": rows})
    over = [
        kernel_row["files"][0]
        for kernel_row in kernels_run.values()
        if max(kernel_row["error_over_budget"].values()) > 1
    ]
    print("over their budgets:", ", ".join(over) or "none", file=sys.stderr)
    return 1 if over or head["launched"]["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
