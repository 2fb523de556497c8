"""Run the CPU engine under the address, undefined-behaviour and thread sanitizers.

    PYTHONPATH=tests python -m bench.records.sanitizers --out bench/results/security/sanitizers.json

Mutated checkpoints are opened, 16 threads call one engine and compare the bits of each result
(tests/native/exercise.cpp), and every op is tested (tests/kernels/cpu/test_ops.py). Status 1: a
sanitizer reports, bits differ, or a test fails. The record is written after each part.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from support.least_checkpoint import write_least
from support.native import ROOT, SANITIZERS, built, exercise, instruction_sets

from bench.recording import run_facts
from clinreadnet.files import whole_file
from clinreadnet.precision import CHECKPOINT_PRECISIONS

CALLERS = 16
Part = tuple[str, str, Callable[[], str]]


def parts(checkpoint: Path, *, calls: int, mutations: int) -> Iterator[Part]:
    """Yield what is run, the sanitizer, and a function that returns what the run printed.

    Args:
        checkpoint: path of a checkpoint.
        calls: total number of calls of the 16 threads, of 1 to 3 slices.
        mutations: number of mutated checkpoints.
    """
    checked = [name for name in SANITIZERS if name != "none"]
    yield (
        "mutated checkpoints",
        checked[0],
        lambda: exercise(checked[0], "mutate", checkpoint, mutations, 1),
    )
    best = instruction_sets(built())[0]
    for sanitizer in reversed(checked):
        for precision in CHECKPOINT_PRECISIONS:
            sent = ("calls", checkpoint, best, precision, CALLERS, calls, os.cpu_count())
            yield (
                f"{CALLERS} threads, {best} {precision}",
                sanitizer,
                lambda sanitizer=sanitizer, sent=sent: exercise(sanitizer, *sent),
            )
    for sanitizer in checked:
        yield "ops of every instruction set", sanitizer, lambda sanitizer=sanitizer: _ops(sanitizer)


def _ops(sanitizer: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/kernels/cpu/test_ops.py"],
        cwd=ROOT,
        env=os.environ | {"CLINREADNET_SANITIZER": sanitizer},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout.splitlines()[-1].split(" in ")[0]


def main(arguments: Sequence[str]) -> int:
    """Run the parts and write the record."""
    parser = argparse.ArgumentParser(prog="python -m bench.records.sanitizers")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--mutations", type=int, default=100_000)
    options = parser.parse_args(arguments)
    facts = run_facts(f"python -m bench.records.sanitizers {' '.join(arguments)}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_least(Path(folder))
        for part, sanitizer, run in parts(
            checkpoint, calls=options.calls, mutations=options.mutations
        ):
            start = time.monotonic()
            try:
                said = run().strip()
            except AssertionError as error:
                print(f"{part}, {sanitizer}: {error}", file=sys.stderr)
                return 1
            minutes = round((time.monotonic() - start) / 60, 1)
            rows.append({"part": part, "sanitizer": sanitizer, "result": said, "minutes": minutes})
            print(rows[-1], file=sys.stderr, flush=True)
            with whole_file(options.out) as made:
                made.write_text(json.dumps({**facts, "parts": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
