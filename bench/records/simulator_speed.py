"""Time the simulator on one core: whole anatomies, and their scans of 720 views alone.

    python -m bench.records.simulator_speed > bench/results/simulator/speed.json

Seconds are processor time, so that other programs on the machine do not count.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import numpy as np

from clinreadnet.processor import cpu_name
from clinreadnet.simulator.phantom.draw import draw_phantom
from clinreadnet.simulator.scan import DEGRADATIONS, NOISE_LEVELS, VIEWS, Protocol, degrade
from clinreadnet.simulator.simulate import simulate_anatomy

ANATOMIES = 4
SEED = 1


def measure() -> dict[str, Any]:
    """Return slices per second and core, ready for JSON."""
    simulate_anatomy(SEED, 0)  # compiles
    start = time.process_time()
    for anatomy in range(ANATOMIES):
        simulate_anatomy(SEED, anatomy)
    all_ = time.process_time() - start
    start = time.process_time()
    full = range(0, len(NOISE_LEVELS) * len(VIEWS), len(VIEWS))
    for anatomy in range(ANATOMIES):
        clean = draw_phantom(SEED, anatomy)
        degrade(clean, Protocol(), lambda k: np.random.default_rng(k), full)
    scans = time.process_time() - start
    return {
        "command": "OMP_NUM_THREADS=1 python -m bench.records.simulator_speed",
        "cpu": cpu_name(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "anatomies": ANATOMIES,
        "slices_per_cpu_second": round(ANATOMIES * DEGRADATIONS / all_, 2),
        "slices_of_720_views_per_cpu_second": round(ANATOMIES * len(full) / scans, 2),
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
