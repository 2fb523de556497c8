"""Measure the processor time of the checks in `clinreadnet score` on a series of 100 slices.

    python -m bench.records.checks_cost --bundle bundle > bench/results/security/checks-cost.json

The series is scored in parts, alternately with and without the checks of pixels. The time inside
the checks is also measured, which is more accurate than a difference of two long times. Checks of
headers and of the bundle are timed separately.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bench.recording import print_record, run_facts
from bench.sweeps.score import write_series
from clinreadnet.data import plausibility, slices
from clinreadnet.data.slices import SliceRef, find_slices
from clinreadnet.runtime import Session, inputs
from clinreadnet.runtime.bundle.default import default_bundle
from clinreadnet.runtime.bundle.graph import check_graph
from clinreadnet.scoring.run import score_slices

SLICES = 100
PART = 10
LIMIT_PERCENT = 2.0


class Stopwatch:
    """Counts calls of functions and their processor time, over all threads."""

    def __init__(self) -> None:
        self.calls, self.seconds = 0, 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*arguments: Any) -> Any:
            self.calls += 1
            start = time.thread_time()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.thread_time() - start

        return timed


@contextmanager
def replaced(count: Callable[..., Any]) -> Iterator[None]:
    """Replace the counts of pixels, of files and of arrays, inside the block."""
    with ExitStack() as stack:
        for module in (slices, inputs):
            stack.enter_context(mock.patch.object(module, "count_pixels", count))
        yield


def processor_time(session: Session, refs: Sequence[SliceRef]) -> float:
    """Return the processor time in seconds from files to scores."""
    start = time.process_time()
    score_slices(session, refs)
    return time.process_time() - start


def measure(session: Session, refs: Sequence[SliceRef], part: int = PART) -> dict[str, Any]:
    """Return the processor time with the checks, without them, and inside them."""
    watch = Stopwatch()
    timed = watch.around(plausibility.count_pixels)
    fixed = plausibility.count_pixels(refs[0].load())

    def none(hu: Any) -> plausibility.PixelCounts:
        return fixed

    pairs = []
    processor_time(session, refs[:part])  # warm up
    for number, first in enumerate(range(0, len(refs), part)):
        seconds = {}
        for checks in (timed, none) if number % 2 else (none, timed):
            with replaced(checks):
                seconds[checks] = processor_time(session, refs[first : first + part])
        pairs.append([seconds[timed], seconds[none]])
    on, off = np.array(pairs).T
    return {
        "slices": len(refs),
        "calls_of_checks": watch.calls,
        "seconds_with": round(float(on.sum()), 3),
        "seconds_without": round(float(off.sum()), 3),
        "seconds_inside_the_checks": round(watch.seconds, 4),
        "percent_inside": round(100 * watch.seconds / float(on.sum()), 2),
        "percent_difference": round(100 * float(on.sum() / off.sum() - 1), 2),
        "pairs": [[round(a, 3), round(b, 3)] for a, b in pairs],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the record as JSON. Status 1: the checks exceed the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=default_bundle())
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        refs = find_slices([write_series(Path(folder) / "series", SLICES)])
        with Session(options.bundle, "onnxruntime-cpu") as session:
            costs = measure(session, refs)
            graph = (options.bundle / session.artifact.file).read_bytes()
            start = time.process_time()
            check_graph(graph, session.artifact.file, session.artifact.precision)
            costs["seconds_graph_once"] = round(time.process_time() - start, 4)
            costs["artifact"] = session.artifact.file
            costs["preset"] = session.manifest.model.preset
    result = {
        **run_facts("python -m bench.records.checks_cost"),
        "limit_percent": LIMIT_PERCENT,
        **costs,
    }
    print_record(result)
    return int(result["percent_inside"] > LIMIT_PERCENT)


if __name__ == "__main__":
    sys.exit(main())
