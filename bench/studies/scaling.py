"""How slices per second grow with workers and threads on this machine, and what Ray adds.

    python -m bench.studies.scaling --bundle bundle > bench/results/scaling/scaling.json

The same DICOM series is scored by `Session` from several Python threads, by `score` in one process,
and by `score-archive` with one Ray worker and more. All take turns, in a new order each round. What
starts before the first slice (a session, Ray's processes) counts where a user waits for it: in
`score` and `score-archive`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.recording import current_commit
from bench.test_score_speed import write_series
from clinreadnet.data.slices import find_slices
from clinreadnet.machine import cpu_name
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.default import default_bundle
from clinreadnet.scoring.archive import score_archive
from clinreadnet.scoring.series import score_slices

SLICES = 64
ROUNDS = 3
ARCHIVE_WORKERS = (1, 2, 4)


def shapes(processors: int) -> list[tuple[int, int]]:
    """Return the workers and threads of the sessions: up to twice as many as processors."""
    powers = [2**k for k in range((2 * processors).bit_length())]
    return [(w, t) for w in powers for t in powers if w * t <= 2 * processors]


def score_from_threads(session: Session, hu: NDArray[Any], workers: int) -> None:
    """Score every slice once, from ``workers`` threads."""
    numbers: Iterator[int] = iter(range(len(hu)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            session.score(hu[number : number + 1])

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_turn(
    runs: dict[tuple[str, int, int], Callable[[], object]], rounds: int
) -> dict[tuple[str, int, int], list[float]]:
    """Return the seconds of each run, one of each per round, in a random order."""
    order = random.Random(0)
    seconds: dict[tuple[str, int, int], list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        keys = list(runs)
        order.shuffle(keys)
        for key in keys:
            start = time.perf_counter()
            runs[key]()
            seconds[key].append(time.perf_counter() - start)
    return seconds


def main(arguments: Sequence[str]) -> int:
    """Print the rates of every way as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.scaling")
    parser.add_argument("--bundle", type=Path, default=default_bundle())
    parser.add_argument("--slices", type=int, default=SLICES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = write_series(Path(name) / "series", options.slices)
        hu = np.stack([ref.load() for ref in find_slices([folder])])
        sessions = {
            (workers, threads): Session(
                options.bundle, "onnxruntime-cpu", workers=workers, threads=threads
            )
            for workers, threads in shapes(os.cpu_count() or 1)
        }

        def score_alone() -> None:
            with Session(options.bundle, "onnxruntime-cpu", threads=1) as session:
                score_slices(session, find_slices([folder]))

        def archive(workers: int) -> None:
            out = Path(name) / "scores.parquet"
            score_archive([folder], options.bundle, out, workers=workers)
            out.unlink()

        runs: dict[tuple[str, int, int], Callable[[], object]] = {
            ("Session", workers, threads): lambda s=session, w=workers: score_from_threads(s, hu, w)
            for (workers, threads), session in sessions.items()
        }
        runs["score", 1, 1] = score_alone
        for workers in ARCHIVE_WORKERS:
            runs["score-archive", workers, 1] = lambda w=workers: archive(w)
        seconds = in_turn(runs, options.rounds)
        rows = [
            {
                "what": what,
                "workers": workers,
                "threads": threads,
                "seconds": [round(one, 3) for one in found],
                "slices_per_second": round(options.slices / statistics.median(found), 3),
            }
            for (what, workers, threads), found in seconds.items()
        ]
        facts = {
            "command": f"python -m bench.studies.scaling --bundle {options.bundle.name} "
            f"--slices {options.slices} --rounds {options.rounds}",
            "commit": current_commit(),
            "hardware": cpu_name(),
            "processors": os.cpu_count(),
            "slices": options.slices,
            "weights_sha256": next(iter(sessions.values())).manifest.model.weights_sha256,
            "rows": rows,
        }
    print(json.dumps(facts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
