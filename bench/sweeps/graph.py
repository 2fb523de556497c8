"""Time each launch inside the CUDA graph of the network with this package's kernels.

PyTorch's profiler times the launches of a graph that is replayed, with the kernels' own clocks on
the GPU. `--once` runs the network once without a graph, for a profiler such as ncu.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.measure import device
from bench.sweeps.candidates import find
from clinreadnet.runtime.bundle.default import default_bundle
from clinreadnet.spec import SIZE

CANDIDATE = "torch-triton-fp16"
REPLAYS = 20
LAUNCHES = ("kernel", "gpu_memcpy", "gpu_memset") if not device.REHEARSED else ("cpu_op",)
"""Categories of the profiler's events that take time on the GPU."""


@dataclass(frozen=True)
class LaunchRow:
    """A launch of the graph.

    Attributes:
        batch: slices per replay.
        place: place in the graph, from 0.
        kernel: name of the kernel.
        grid: blocks in x, y and z; empty for copies.
        threads: threads of a block.
        registers: registers per thread.
        microseconds: median time over the replays.
    """

    batch: int
    place: int
    kernel: str
    grid: tuple[int, ...]
    threads: int
    registers: int
    microseconds: float


def launches(trace: Mapping[str, Any], batch: int, replays: int) -> list[LaunchRow]:
    """Return the launches of a graph from the profiler's trace of its replays.

    Raises:
        ValueError: the trace has no launches, or not equally many in each replay.
    """
    events = [event for event in trace["traceEvents"] if event.get("cat") in LAUNCHES]
    events.sort(key=lambda event: event["ts"])
    if not events or len(events) % replays:
        raise ValueError(f"{len(events)} launches in {replays} replays: the profiler missed some")
    count = len(events) // replays
    rows = []
    for place in range(count):
        same = events[place::count]
        if len({event["name"] for event in same}) != 1:
            raise ValueError(f"launch {place} is another kernel in another replay")
        arguments = same[0].get("args", {})
        block = arguments.get("block", ())
        rows.append(
            LaunchRow(
                batch,
                place,
                same[0]["name"],
                tuple(arguments.get("grid", ())),
                block[0] * block[1] * block[2] if block else 0,
                arguments.get("registers per thread", 0),
                statistics.median(float(event["dur"]) for event in same),
            )
        )
    return rows


def by_kernel(rows: Sequence[LaunchRow | Mapping[str, Any]]) -> dict[str, tuple[int, float]]:
    """Return number of launches and microseconds of each kernel, the longest first."""
    sums: dict[str, tuple[int, float]] = {}
    for row in rows:
        facts = asdict(row) if isinstance(row, LaunchRow) else row
        count, total = sums.get(facts["kernel"], (0, 0.0))
        sums[facts["kernel"]] = count + 1, total + facts["microseconds"]
    return dict(sorted(sums.items(), key=lambda item: -item[1][1]))


def bound(batch: int) -> Callable[[], object]:
    """Load the network; return a function that enqueues a run on slices on the GPU."""
    search = find(default_bundle().resolve(), probe=False)
    candidate = next((c for c in search.candidates if c.title == CANDIDATE), None)
    if candidate is None or candidate.bind is None:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in search.missing.items()))
    slices = torch.randn(batch, 1, SIZE, SIZE, device=device.device()) * 300
    return candidate.bind(slices)


def profiled(run: Callable[[], object], replays: int) -> dict[str, Any]:
    """Capture a run in a CUDA graph; return the profiler's trace of its replays."""
    from torch.profiler import ProfilerActivity, profile

    if device.REHEARSED:
        activity, replay = ProfilerActivity.CPU, run
    else:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()
        activity, replay = ProfilerActivity.CUDA, graph.replay
    replay()
    with profile(activities=[activity]) as profiler:
        for _ in range(replays):
            replay()
        if not device.REHEARSED:
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        trace: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return trace


def main(arguments: Sequence[str]) -> None:
    """Time the launches of each batch and append their rows."""
    parser = argparse.ArgumentParser(prog="python -m bench.sweeps.graph", description=__doc__)
    parser.add_argument("--batch", type=int, action="append", required=True)
    parser.add_argument("--rows", type=Path, help="file to append rows to, as lines of JSON")
    parser.add_argument("--once", action="store_true", help="run the network once and end")
    options = parser.parse_args(arguments)
    for batch in options.batch:
        run = bound(1 if device.REHEARSED else batch)
        if options.once:
            run()
            continue
        replays = 2 if device.REHEARSED else REPLAYS
        rows = launches(profiled(run, replays), batch, replays)
        if options.rows is not None:
            with options.rows.open("a", encoding="utf-8") as file:
                kept = rows[:10] if device.REHEARSED else rows
                file.writelines(json.dumps(asdict(row)) + "\n" for row in kept)
        total = sum(row.microseconds for row in rows)
        print(f"batch {batch}: {len(rows)} launches, {total:.0f} us in kernels")
        for kernel, (count, microseconds) in by_kernel(rows).items():
            print(f"{microseconds:10.1f} us {100 * microseconds / total:5.1f} % {count:4} {kernel}")
    if options.once and not device.REHEARSED:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1:])
