"""Measure times on the GPU with CUDA events, with or without a CUDA graph."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.measure.device import FALSE_SECONDS, REHEARSED, device
from bench.run import Sample, copies_past_the_cache

LEAST_CALLS = 20
"""Least number of calls in a graph, so that the launch of the graph is negligible."""

MOST_MEMORY = 16 * 2**30
"""Largest total size of inputs and outputs of a graph's calls in bytes."""

COPIED = 2**28 if not REHEARSED else 2**10
"""Size of the copy that measures the bandwidth, in bytes."""

_ROUNDS = 20  # replays of the graph


def milliseconds(
    run: Callable[[Sequence[Tensor]], object],
    tensors: Sequence[Tensor],
    *,
    calls: int | None = None,
) -> float:
    """Return the median time of a call.

    Args:
        run: function to time. It must not synchronise.
        tensors: arguments. Each call has its own copy of the first tensor and its own output, so
            that the L2 cache is cold.
        calls: calls in a graph. Default: enough to exceed the cache, and at least `LEAST_CALLS`
            unless inputs and outputs exceed `MOST_MEMORY`.
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
        outputs = [run(copy) for copy in copies]  # keep outputs, so that their memory is not reused
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
    """Return the number of calls to capture if each reads and writes ``moved`` bytes."""
    enough = max(LEAST_CALLS, copies_past_the_cache(moved, cache))
    return max(2, min(enough, MOST_MEMORY // max(moved, 1)))


def copy_milliseconds(size: int) -> float:
    """Return the time of a copy that reads and writes ``size`` bytes in total, in milliseconds."""
    source = torch.empty(max(1, size // 2), dtype=torch.uint8, device=device())
    return milliseconds(lambda tensors: tensors[0].clone(), [source])


def copy_bandwidth() -> float:
    """Return the rate of a large copy on the device in bytes read and written per second."""
    return 2 * COPIED / copy_milliseconds(2 * COPIED) * 1e3


def device_sample(
    bind: Callable[[Tensor], Callable[[], object]], batch: int, *, graph: bool
) -> Sample:
    """Time a run on slices in device memory with events on a separate stream.

    Before each run, outside the measured time, other slices are copied to the input and the L2
    cache is flushed.

    Args:
        bind: function from slices [B, 1, 512, 512] at a fixed address to a function that enqueues a
            run on the current stream.
        batch: slices per run.
        graph: whether to capture the run in a CUDA graph and time its replay.
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
