"""Measure slices per second by workers and threads on this machine, with and without Ray.

    python -m bench.records.scaling --bundle bundle > bench/results/scaling/scaling.json

A DICOM series is scored by `Session` from several Python threads, by `score` in one process, and by
`score-archive` with one or more Ray workers, all with the default backend. They alternate in random
order. Start-up time (session, Ray's processes) is included for `score` and `score-archive`, where a
user waits for it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.recording import current_commit, print_record
from bench.run import host_sample, interleave
from bench.sweeps.score import write_series
from clinreadnet.data.slices import find_slices
from clinreadnet.processor import cpu_name, processors
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.default import default_bundle
from clinreadnet.scoring.archive import score_archive
from clinreadnet.scoring.run import score_slices

SLICES = 64
ROUNDS = 3


def powers_to(most: int) -> list[int]:
    """Return the powers of two from 1 to ``most``."""
    return [2**k for k in range(most.bit_length())]


def shapes(count: int) -> list[tuple[int, int]]:
    """Return workers and threads of the sessions: in all, up to twice the number of processors."""
    return [(w, t) for w in powers_to(2 * count) for t in powers_to(min(count, 2 * count // w))]


def score_from_threads(session: Session, hu: NDArray[Any], workers: int) -> None:
    """Score every slice once, from ``workers`` threads."""
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(session.score, hu[:, None]))


def main(arguments: Sequence[str]) -> int:
    """Print the rates as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.records.scaling")
    parser.add_argument("--bundle", type=Path, default=default_bundle())
    parser.add_argument("--slices", type=int, default=SLICES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = write_series(Path(name) / "series", options.slices)
        hu = np.stack([ref.load() for ref in find_slices([folder])])
        sessions = {
            (workers, threads): Session(options.bundle, workers=workers, threads=threads)
            for workers, threads in shapes(processors())
        }

        def score_alone() -> None:
            with Session(options.bundle, threads=1) as session:
                score_slices(session, find_slices([folder]))

        def archive(workers: int) -> None:
            out = Path(name) / "scores.parquet"
            score_archive([folder], options.bundle, out, workers=workers)
            out.unlink()

        ways: dict[tuple[str, int, int], Callable[[], object]] = {
            ("Session", workers, threads): partial(score_from_threads, session, hu, workers)
            for (workers, threads), session in sessions.items()
        }
        ways["score", 1, 1] = score_alone
        ways |= {("score-archive", n, 1): partial(archive, n) for n in powers_to(processors())}
        samples = {str(way): host_sample(lambda run: run(), [run]) for way, run in ways.items()}
        seconds = interleave(samples, rounds=options.rounds, most=options.rounds)
        rows = [
            {
                "what": what,
                "workers": workers,
                "threads": threads,
                "seconds": [round(duration, 3) for duration in durations],
                "slices_per_second": round(options.slices / statistics.median(durations), 3),
            }
            for (what, workers, threads), durations in zip(ways, seconds.values(), strict=True)
        ]
        facts = {
            "command": f"python -m bench.records.scaling --bundle {options.bundle.name} "
            f"--slices {options.slices} --rounds {options.rounds}",
            "commit": current_commit(),
            "hardware": cpu_name(),
            "processors": processors(),
            "backend": next(iter(sessions.values())).describe()["backend"],
            "slices": options.slices,
            "weights_sha256": next(iter(sessions.values())).manifest.model.weights_sha256,
            "rows": rows,
        }
    return print_record(facts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
