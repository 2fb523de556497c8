"""Call a `Session` many times from many threads; memory and open files must not grow.

    PYTHONPATH=tests python -m bench.records.soak > bench/results/security/soak.json

The bundle has only a few operators (tests/support/tiny_bundle.py), so that many calls take minutes.
Each call scores 1, 2 or 4 slices of a pool, and the scores are compared with those of the first
call. Status 1: a score differs, or memory or open files grow.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.bodies import body
from support.tiny_bundle import write_bundle

from bench.recording import print_record, run_facts
from clinreadnet.runtime import Session

SIZES = (1, 1, 1, 1, 1, 1, 2, 4)
"""Numbers of slices per call, drawn at random."""
WARM_UP = 0.2
"""Share of calls before which growth does not count, while pools and arenas fill."""
GROWTH = 8 * 2**20
"""Largest growth of memory in bytes after the warm-up, from the slope. A leak of a slice's scores
(1.2 kB) in each of 40,000 calls would add 48 MB."""
TOLERANCE = 1e-5
"""Largest difference of a score between batches, from float32 sums of 1024 means."""


@dataclass(frozen=True)
class Sample:
    """State of the process after some calls: resident bytes and open file descriptors."""

    calls: int
    resident: int
    files: int


def sample(calls: int) -> Sample:
    """Return the state of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(calls, pages * os.sysconf("SC_PAGESIZE"), len(os.listdir("/proc/self/fd")))


def soak(
    session: Session, slices: NDArray[Any], *, calls: int, threads: int, seed: int, samples: int
) -> list[Sample]:
    """Score random parts of the slices.

    Args:
        session: session, shared by all threads.
        slices: [n, 512, 512] HU, with n at least the largest of `SIZES`.
        calls: total number of calls of `Session.score`.
        threads: number of threads.
        seed: seed of sizes and parts.
        samples: number of samples, evenly spaced over the calls.

    Raises:
        AssertionError: a score differs from the first call.
    """
    expected = session.score(slices).score
    every = max(calls // samples, 1)
    numbers = itertools.count(1)
    taking = threading.Lock()
    taken: list[Sample] = []

    def work(thread: int) -> None:
        draw = random.Random(f"{seed}/{thread}")
        while (number := next(numbers)) <= calls:
            size = draw.choice(SIZES)
            first = draw.randrange(len(slices) - size + 1)
            scores = session.score(slices[first : first + size]).score
            right = expected[first : first + size]
            assert np.allclose(scores, right, rtol=0, atol=TOLERANCE), f"call {number}"
            if number % every == 0:
                with taking:
                    taken.append(sample(number))

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, range(threads)):
            pass
    return sorted(taken, key=lambda point: point.calls)


def growth(samples: Sequence[Sample]) -> float:
    """Return the growth of memory after the warm-up in bytes, from a linear fit."""
    kept = _warm(samples)
    calls = np.array([sample.calls for sample in kept], float)
    slope = np.polyfit(calls, [sample.resident for sample in kept], 1)[0]
    return float(slope * (calls[-1] - calls[0]))


def failures(samples: Sequence[Sample]) -> list[str]:
    """Return messages about growing memory or open files."""
    messages = []
    if (grown := growth(samples)) > GROWTH:
        messages.append(f"memory grew by {grown / 2**20:.1f} MiB, at most {GROWTH / 2**20:.0f}")
    files = [sample.files for sample in _warm(samples)]
    if len(set(files)) > 1:
        messages.append(f"{min(files)} to {max(files)} open files, which should stay the same")
    return messages


def _warm(samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.calls > WARM_UP * samples[-1].calls]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the run as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="default: the one of a few operators")
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--workers", type=int, default=4, help="concurrent runs")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    slices = np.stack([body(40) + rng.normal(0, 30, (512, 512)) for _ in range(8)])
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or write_bundle(Path(folder) / "tiny")
        start = time.monotonic(), time.process_time()
        with Session(bundle, "onnxruntime-cpu", workers=options.workers, threads=1) as session:
            taken = soak(
                session,
                slices.astype(np.int16),
                calls=options.calls,
                threads=options.threads,
                seed=options.seed,
                samples=100,
            )
        seconds = time.monotonic() - start[0], time.process_time() - start[1]
    kept, wrong = _warm(taken), failures(taken)
    result = {
        **run_facts(f"python -m bench.records.soak {' '.join(arguments or sys.argv[1:])}".strip()),
        "onnxruntime": version("onnxruntime"),
        "bundle": "tiny" if options.bundle is None else options.bundle.name,
        "calls": options.calls,
        "threads": options.threads,
        "workers": options.workers,
        "clock_minutes": round(seconds[0] / 60, 1),
        "processor_minutes": round(seconds[1] / 60, 1),
        "warm_up_calls": int(WARM_UP * options.calls),
        "growth_bytes": round(growth(taken)),
        "growth_limit_bytes": GROWTH,
        "resident_bytes": [min(s.resident for s in kept), max(s.resident for s in kept)],
        "open_files": [min(s.files for s in kept), max(s.files for s in kept)],
        "failures": wrong,
        "samples": [[sample.calls, sample.resident, sample.files] for sample in taken],
    }
    print_record(result)
    for line in wrong:
        print(f"soak: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
