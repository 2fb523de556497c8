"""Measure what looking at a slice costs: the counts of its pixels, its region and its figures.

    python -m bench.records.slice_times series > bench/results/scoring/slice-times.json

Times are processor time of one thread, the best of ``RUNS`` for each slice, with the library of the
CPU engine and without it. Run it while the machine is idle.
"""

from __future__ import annotations

import argparse
import sys
import time
import timeit
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from bench.recording import print_record, run_facts
from clinreadnet import library
from clinreadnet.data.plausibility import count_pixels
from clinreadnet.data.region import find_region
from clinreadnet.data.slices import find_slices
from clinreadnet.library import engine_version
from clinreadnet.physics import measure_figures

RUNS = 25

Look = Callable[[NDArray[np.int16 | np.float32], float], object]

LOOKS: dict[str, Look] = {
    "counts of pixels": lambda hu, pixel_mm: count_pixels(hu),
    "region": find_region,
    "figures": measure_figures,
}


def milliseconds(look: Look, hu: NDArray[np.int16 | np.float32], pixel_mm: float) -> float:
    """Return the least processor time of a look at a slice."""
    run = partial(look, hu, pixel_mm)
    return 1e3 * min(timeit.repeat(run, timer=time.thread_time, number=1, repeat=RUNS))


def rows(slices: Sequence[tuple[NDArray[np.int16 | np.float32], float]]) -> list[dict[str, Any]]:
    """Return the median and the largest time over slices, for each look."""
    times = {name: [milliseconds(look, *entry) for entry in slices] for name, look in LOOKS.items()}
    return [
        {"look": name, "median_ms": round(float(np.median(ms)), 3), "most_ms": round(max(ms), 3)}
        for name, ms in times.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the record as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("slices", type=Path, nargs="+", help="files and folders of CT slices")
    options = parser.parse_args(arguments)
    refs = find_slices(options.slices, resample=True)
    slices = [(ref.load_compact(), ref.loaded_mm) for ref in refs if ref.loaded_mm is not None]
    if not slices:
        parser.error("no slice states the size of its pixels")
    names = " ".join(path.name for path in options.slices)
    facts = run_facts(f"python -m bench.records.slice_times {names}")
    record = {**facts, "slices": len(slices), "library": engine_version(), "with": rows(slices)}
    with mock.patch.object(library, "LIBRARY", library.LIBRARY.with_name("none")):
        record["without"] = rows(slices)
    return print_record(record)


if __name__ == "__main__":
    sys.exit(main())
