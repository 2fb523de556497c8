"""Times on the GPU: calls captured in a CUDA graph, so that Python's launches cost nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MAX_CALLS = 256
"""Nodes of a graph cost memory on the device, however small the call."""


def calls_past_the_cache(moved: int, cache: int) -> int:
    """How many calls on tensors of their own keep a cache of ``cache`` bytes cold."""
    return min(MAX_CALLS, max(2, math.ceil(4 * cache / moved)))


def milliseconds(
    run: Callable[[Sequence[Tensor]], object],
    tensors: Sequence[Tensor],
    *,
    calls: int | None = None,
    rounds: int = 20,
) -> float:
    """Median time of one call.

    Args:
        run: what to time; it must not synchronise.
        tensors: its arguments; every call has its own copy of the first, and its own output, so
            that nothing is found in the L2 cache that a first call would not find there.
        calls: in one graph; default as many as it takes to be larger than the cache.
        rounds: replays.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            out = run(tensors)
    torch.cuda.current_stream().wait_stream(stream)
    if calls is None:
        moved = sum(t.nbytes for t in (tensors[0], out) if isinstance(t, Tensor))
        calls = calls_past_the_cache(moved, torch.cuda.get_device_properties(0).L2_cache_size)
    copies = [[tensors[0].clone(), *tensors[1:]] for _ in range(calls)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = [run(copy) for copy in copies]  # kept: a freed one's memory would be used again
    graph.replay()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for start, end in events:
        start.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    del outputs
    return statistics.median(start.elapsed_time(end) for start, end in events) / calls


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy on the device of 1 GiB."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / milliseconds(lambda t: target.copy_(t[0]), [source], calls=1) * 1e3
