"""Run the CPU engine under the address, undefined-behaviour and thread sanitizers.

    PYTHONPATH=tests python -m bench.records.sanitizers --out bench/results/security/sanitizers.json

In each round mutated checkpoints are opened, and 16 threads call one engine and compare the bits of
each result (tests/native/exercise.cpp). At last every op is tested (tests/kernels/cpu/test_ops.py).
Status 1: a sanitizer reports, bits differ, or a test fails. The record is written after each part.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from support.least_checkpoint import write_least
from support.native import ROOT, exercise

from bench.recording import run_facts, write_record
from clinreadnet.library import instructions
from clinreadnet.precision import CHECKPOINT_PRECISIONS
from clinreadnet.processor import processors

CALLERS = 16
_COUNT = re.compile(r"(\d+) (mutations|refused|loaded|calls|wrong|passed|skipped)")


@dataclass(frozen=True)
class Part:
    """A part of the run: what it is, its sanitizer, and a function that returns what it printed."""

    name: str
    sanitizer: str
    run: Callable[[], str]


def parts(checkpoint: Path, *, rounds: int, calls: int, mutations: int) -> Iterator[Part]:
    """Yield the parts of the rounds, and then the tests of the ops.

    Args:
        checkpoint: path of a checkpoint.
        rounds: number of rounds.
        calls: calls of the 16 threads in a round, for each precision and sanitizer.
        mutations: mutated checkpoints of a round.
    """
    memory, threads = "address-undefined", "thread"
    best = instructions()
    run = partial(exercise, only=(best,), wide=False)
    for seed in range(1, rounds + 1):
        mutated = partial(run, memory, "mutate", checkpoint, mutations, seed)
        yield Part("mutated checkpoints", memory, mutated)
        for sanitizer in (threads, memory):
            for precision in CHECKPOINT_PRECISIONS:
                sent = (checkpoint, best, precision, CALLERS, calls, processors())
                called = partial(run, sanitizer, "calls", *sent)
                yield Part(f"{CALLERS} threads, {best} {precision}", sanitizer, called)
    for sanitizer in (memory, threads):
        yield Part("ops of every instruction set", sanitizer, partial(_ops, sanitizer))


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
    return done.stdout.splitlines()[-1]


def main(arguments: Sequence[str]) -> int:
    """Run the parts and write the record."""
    parser = argparse.ArgumentParser(prog="python -m bench.records.sanitizers")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=300, help="in a round")
    parser.add_argument("--mutations", type=int, default=10_000, help="in a round")
    options = parser.parse_args(arguments)
    facts = run_facts(
        f"python -m bench.records.sanitizers --rounds {options.rounds} --calls {options.calls} "
        f"--mutations {options.mutations}"
    )
    counts: dict[tuple[str, str], Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in parts(
            write_least(Path(folder)),
            rounds=options.rounds,
            calls=options.calls,
            mutations=options.mutations,
        ):
            try:
                printed = part.run()
            except AssertionError as error:
                print(f"{part.name}, {part.sanitizer}: {error}", file=sys.stderr)
                return 1
            print(f"{part.name}, {part.sanitizer}: {printed.strip()}", file=sys.stderr, flush=True)
            count = counts.setdefault((part.name, part.sanitizer), Counter())
            count.update({name: int(number) for number, name in _COUNT.findall(printed)})
            rows = [
                {"part": name, "sanitizer": sanitizer, "counts": count}
                for (name, sanitizer), count in counts.items()
            ]
            write_record(options.out, {**facts, "parts": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
