"""What this machine can do: bytes a second of a copy, operations a second of matrix products."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

from clinreadnet.precision import PRECISIONS, torch_precisions


@functools.cache
def measure_rates() -> dict[str, float]:
    """Measure this machine: ``copy`` in bytes/s, and matmuls in FLOP/s by precision.

    Measured once, at the first call: on a GPU where PyTorch can use one, else on the processor. It
    is the best of several, since a limit is what the machine can do. Without PyTorch, NumPy's
    float32 on the processor.
    """
    try:
        import torch
    except ImportError:
        return _numpy_rates()
    if torch.cuda.is_available():
        return _cuda_rates()
    rates = {}
    source = torch.ones(2**28, dtype=torch.uint8)
    target = torch.empty_like(source)
    rates["copy"] = 2 * source.numel() / _best(lambda: target.copy_(source))
    for precision in torch_precisions(cuda=False):
        a = torch.ones(2048, 2048, dtype=getattr(torch, PRECISIONS[precision].torch_dtype))
        rates[precision] = 2 * 2048**3 / _best(functools.partial(torch.matmul, a, a))
    return rates


def known_rates() -> dict[str, float]:
    """Return the rates where they were measured in this process, else nothing."""
    return measure_rates() if measure_rates.cache_info().currsize else {}


def _numpy_rates() -> dict[str, float]:
    import numpy as np

    source, square = np.ones(2**28, np.uint8), np.ones((2048, 2048), np.float32)
    target = np.empty_like(source)
    return {
        "copy": 2 * source.nbytes / _best(lambda: np.copyto(target, source)),
        "fp32": 2 * 2048**3 / _best(lambda: square @ square),
    }


def _cuda_rates() -> dict[str, float]:
    import torch

    from bench.measure.cuda_clock import copy_bandwidth, milliseconds

    rates = {"copy": copy_bandwidth()}
    before = torch.backends.cuda.matmul.allow_tf32
    for precision in torch_precisions(cuda=True):
        row = PRECISIONS[precision]
        torch.backends.cuda.matmul.allow_tf32 = row.tf32
        a = torch.randn(8192, 8192, device="cuda", dtype=getattr(torch, row.torch_dtype))
        rates[precision] = 2 * 8192**3 / milliseconds(lambda t: t[0] @ t[0], [a], calls=1) * 1e3
    torch.backends.cuda.matmul.allow_tf32 = before
    return rates


def _best(run: Callable[[], object], repeats: int = 7) -> float:
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
