"""Measure the CPU engine: its share of what a core can multiply, threads, start and memory.

    python -m bench.records.cpu_engine --python python3 > bench/results/cpu-engine/epyc.json

For each instruction set and precision, one slice is scored with one thread and with all, in turn,
on this machine while it is idle. The peak of a core is measured in the same process by products
that stay in registers. Start is the time from the start of a new process to its first score, with
hashes and self-test; ``--python`` names an environment with the bare package.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.recording import print_record, run_facts
from bench.run import host_sample, interleave
from bench.statistics import percentile
from bench.sweeps.network import network_work
from bench.sweeps.score import peak_memory, write_series
from clinreadnet.library import forced, load_library
from clinreadnet.precision import CHECKPOINT_PRECISIONS
from clinreadnet.runtime.backends.native import NativeBackend
from clinreadnet.runtime.bundle.default import SHIPPED
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.spec import SIZE

ROUNDS = 40
STARTS = 15
MEMORY_SLICES = 60
PEAK_ROUNDS = 1_000_000
START = """
import sys
import numpy as np
from clinreadnet.runtime import Session
hu = np.random.default_rng(0).normal(40, 300, (512, 512)).astype(np.float32)
with Session(precision=sys.argv[1]) as session:
    print(session.score(hu).score, flush=True)
    sys.stdin.read()
"""


def register_peak(instructions: str, precision: str) -> float:
    """Return operations per second of a core in products that stay in registers."""
    eight = int(precision == "int8")
    sizes = (ctypes.c_int64 * 2)(eight, PEAK_ROUNDS)
    products = np.zeros(1, np.float32)
    tensors = (ctypes.c_void_p * 1)(products.ctypes.data)
    run = load_library().crn_run_op
    run.argtypes = [*2 * [ctypes.c_char_p], *2 * [ctypes.c_void_p], *2 * [ctypes.c_int64]]
    run.argtypes += [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    error = ctypes.create_string_buffer(256)
    best = float("inf")
    for _ in range(5):
        start = time.thread_time()
        if run(b"peak", instructions.encode(), sizes, tensors, 0, 0, None, error, len(error)):
            raise RuntimeError(error.value.decode())
        best = min(best, time.thread_time() - start)
    return 2 * float(products[0]) / best


def measure(checkpoint: bytes, rounds: int, flops: Callable[[str], float]) -> list[dict[str, Any]]:
    """Return a row for each instruction set with vectors, and precision."""
    processors = len(os.sched_getaffinity(0))
    noise = np.random.default_rng(1).normal(40, 300, (1, 1, SIZE, SIZE)).astype(np.float32)
    rows = []
    names = [name for name in load_library().crn_instructions().decode().split() if name != "plain"]
    for name in names:
        for precision in CHECKPOINT_PRECISIONS:
            peak = register_peak(name, precision)
            with forced(name):
                engines = {
                    threads: NativeBackend(checkpoint, precision=precision, threads=threads)
                    for threads in (1, processors)
                }
            samples = {
                str(threads): host_sample(engine.run, [noise, noise + 1])
                for threads, engine in engines.items()
            }
            seconds = interleave(samples, rounds=rounds, most=rounds)
            for engine in engines.values():
                engine.close()
            single, all_ = (percentile(seconds[str(n)], 50) for n in (1, processors))
            rows.append(
                {
                    "instructions": name,
                    "precision": precision,
                    "gflop": round(flops(precision) / 1e9, 2),
                    "peak_gflops_per_core": round(peak / 1e9, 1),
                    "ms_one_thread": round(1e3 * single, 2),
                    "ms_all_threads": round(1e3 * all_, 2),
                    "percent_of_peak": round(100 * flops(precision) / single / peak, 1),
                    "threads_ratio": round(single / all_, 2),
                }
            )
    return rows


def start_to_score(python: str, precision: str) -> float:
    """Return seconds from the start of a process to its first score."""
    start = time.perf_counter()
    command = [python, "-c", START, precision]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tempfile.gettempdir()
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
    if process.returncode or not line:
        raise RuntimeError(f"{python}: status {process.returncode}")
    return seconds


def main(arguments: Sequence[str]) -> int:
    """Print the record as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.records.cpu_engine")
    parser.add_argument("--python", default=sys.executable, help="Python of the bare package")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    manifest = load_manifest(SHIPPED)
    checkpoint = next(a.file for a in manifest.artifacts if a.kind == "checkpoint")
    rows = measure(
        (SHIPPED / checkpoint).read_bytes(),
        options.rounds,
        lambda precision: network_work(manifest, 1, precision).flops,
    )
    starts = interleave(
        {p: partial(start_to_score, options.python, p) for p in CHECKPOINT_PRECISIONS},
        rounds=STARTS,
        most=STARTS,
    )
    with tempfile.TemporaryDirectory() as folder:
        series = write_series(Path(folder) / "series", MEMORY_SLICES)
        memory = peak_memory(series, SHIPPED, options.python)
    facts = {
        **run_facts(f"python -m bench.records.cpu_engine --rounds {options.rounds}"),
        "rows": rows,
        "start_seconds": {
            precision: {
                "median": round(percentile(seconds, 50), 3),
                "best": round(min(seconds), 3),
                "n": len(seconds),
            }
            for precision, seconds in starts.items()
        },
        "score_memory_mib": round(memory / 2**20),
        "score_slices": MEMORY_SLICES,
    }
    return print_record(facts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
