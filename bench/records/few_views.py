"""Count simulated scans of few views in which `measure_figures` sees the streaks of these views.

    python -m bench.records.few_views > bench/results/simulator/few-views.json

``SETS`` are the anatomies whose scans chose the limit of `clinreadnet.physics.views`, and others on
which it was tried.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from bench.recording import print_record, run_facts
from clinreadnet.physics import measure_figures
from clinreadnet.simulator.simulate import simulate_anatomy

SETS = {"to choose": (7302, 14), "to try": (7304, 8)}
"""Seed and number of anatomies of each set."""


def rows(seed: int, anatomies: Iterable[int]) -> list[dict[str, Any]]:
    """Return, for each number of views, the slices, those seen, and those with the right number."""
    counts: defaultdict[tuple[int, bool], list[int]] = defaultdict(lambda: [0, 0, 0])
    for number in anatomies:
        anatomy = simulate_anatomy(seed, number)
        for shown in anatomy.slices:
            views = measure_figures(shown.hu, anatomy.clean.pixel_mm).views
            count = counts[shown.made.views, shown.made.denoiser is not None]
            for place, holds in enumerate((True, bool(views), views == shown.made.views)):
                count[place] += holds
    return [
        {
            "views": views,
            "denoised": denoised,
            "slices": count[0],
            "seen": count[1],
            "right": count[2],
        }
        for (views, denoised), count in sorted(counts.items())
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the record as JSON."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args(arguments)
    record = run_facts("python -m bench.records.few_views")
    record["sets"] = [
        {"name": name, "seed": seed, "anatomies": count, "rows": rows(seed, range(count))}
        for name, (seed, count) in SETS.items()
    ]
    return print_record(record)


if __name__ == "__main__":
    sys.exit(main())
