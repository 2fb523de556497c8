"""Times on the GPU by CUDA events, with and without a CUDA graph that removes Python's overhead."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.measure.device import FALSE_SECONDS, REHEARSED, device
from bench.run import Sample, copies_past_the_cache

LEAST_CALLS = 20
"""Calls in one graph, at least: a single short one would measure the graph's own launch."""

MOST_MEMORY = 16 * 2**30
"""Bytes that the inputs and outputs of a graph's calls may take together."""

COPIED = 2**28 if not REHEARSED else 2**10
"""Bytes of the copy that gives the bandwidth of the device."""

_ROUNDS = 20  # replays of the graph


def milliseconds(
    run: Callable[[Sequence[Tensor]], object],
    tensors: Sequence[Tensor],
    *,
    calls: int | None = None,
) -> float:
    """Return the median time of one call.

    Args:
        run: function to time; it must not synchronise.
        tensors: its arguments; every call has its own copy of the first, and its own output, so
            that the L2 cache is as cold as for a first call.
        calls: calls in one graph; default enough to exceed the cache, and `LEAST_CALLS` at least
            while inputs and outputs take less than `MOST_MEMORY`.
    """
    if REHEARSED:
        run(tensors)
        return FALSE_SECONDS * 1e3
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            out = run(tensors)
    torch.cuda.current_stream().wait_stream(stream)
    if calls is None:
        moved = sum(t.nbytes for t in (tensors[0], out) if isinstance(t, Tensor))
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        calls = calls_in_a_graph(moved, cache)
    copies = [[tensors[0].clone(), *tensors[1:]] for _ in range(calls)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = [run(copy) for copy in copies]  # kept, so that their memory is not reused
    graph.replay()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(_ROUNDS)]
    for start, end in events:
        start.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    del outputs
    return statistics.median(start.elapsed_time(end) for start, end in events) / calls


def calls_in_a_graph(moved: int, cache: int) -> int:
    """Return how many calls to capture that read and write ``moved`` bytes each."""
    enough = max(LEAST_CALLS, copies_past_the_cache(moved, cache))
    return max(2, min(enough, MOST_MEMORY // max(moved, 1)))


def copy_milliseconds(size: int) -> float:
    """Return the time of a copy that reads and writes ``size`` bytes together, under this clock."""
    source = torch.empty(max(1, size // 2), dtype=torch.uint8, device=device())
    return milliseconds(lambda tensors: tensors[0].clone(), [source])


def copy_bandwidth() -> float:
    """Return bytes per second, read and written, of a large copy on the device."""
    return 2 * COPIED / copy_milliseconds(2 * COPIED) * 1e3


def device_sample(
    bind: Callable[[Tensor], Callable[[], object]], batch: int, *, graph: bool
) -> Sample:
    """Time one run on slices in device memory, by events on a separate stream.

    Before each run, outside of the measured time, other slices are copied to the input, and more
    memory than the L2 cache is written.

    Args:
        bind: returns a function that enqueues a run on the current stream, for slices
            [B, 1, 512, 512] at a fixed address.
        batch: slices of a run.
        graph: capture the run in a CUDA graph and time its replay.
    """
    if REHEARSED:
        bind(torch.randn(1, 1, 512, 512) * 300)()
        return lambda: FALSE_SECONDS
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        slices = torch.randn(batch, 1, 512, 512, device="cuda") * 300
        turn = itertools.cycle(
            [slices + i for i in range(min(8, copies_past_the_cache(slices.nbytes, cache)))]
        )
        past = torch.empty(4 * cache, dtype=torch.uint8, device="cuda")
        launch = bind(slices)
        for _ in range(3):
            launch()
    stream.synchronize()
    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured, stream=stream):
            launch()
        launch = captured.replay
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def sample() -> float:
        with torch.cuda.stream(stream):
            slices.copy_(next(turn))
            past.zero_()
            start.record()
            launch()
            end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    return sample
