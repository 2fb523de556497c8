"""Measure the rates of this machine: copies in bytes/s and matrix products in FLOP/s."""

from __future__ import annotations

import functools
import time
import timeit
from collections.abc import Callable
from typing import TypeVar

from clinreadnet.precision import PRECISIONS, torch_precisions

T = TypeVar("T")

SIZES = (256, 512, 1024, 2048)
"""Sizes of square matrices on a processor, smallest first."""
SECONDS = 0.1
"""Seconds of a product after which no larger size is tried. Without hardware support of a type, the
largest size takes half a minute."""


@functools.cache
def measure_rates() -> dict[str, float]:
    """Measure this machine: ``copy`` in bytes/s, and matmuls in FLOP/s by precision.

    Measured once at the first call, on a GPU if PyTorch can use one, otherwise on the processor.
    Rates are the best of several runs. Without PyTorch, NumPy's float32 on the processor is
    measured.
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
        dtype = getattr(torch, PRECISIONS[precision].torch_dtype)
        rates[precision] = product_rate(
            functools.partial(torch.ones, dtype=dtype), lambda a: torch.matmul(a, a)
        )
    return rates


def known_rates() -> dict[str, float]:
    """Return the rates if they were measured in this process, otherwise an empty dict."""
    return measure_rates() if measure_rates.cache_info().currsize else {}


def _numpy_rates() -> dict[str, float]:
    import numpy as np

    source = np.ones(2**28, np.uint8)
    target = np.empty_like(source)
    return {
        "copy": 2 * source.nbytes / _best(lambda: np.copyto(target, source)),
        "fp32": product_rate(functools.partial(np.ones, dtype=np.float32), lambda a: a @ a),
    }


def product_rate(
    make: Callable[[tuple[int, int]], T],
    multiply: Callable[[T], object],
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the best FLOP/s of square matrix products over all sizes.

    Args:
        make: function that returns a matrix of a shape.
        multiply: function that multiplies a matrix by itself.
        clock: function that returns the time in seconds.
    """
    rate = 0.0
    for n in SIZES:
        square = make((n, n))
        seconds = _best(functools.partial(multiply, square), clock=clock)
        rate = max(rate, 2 * n**3 / seconds)
        if seconds > SECONDS:
            break
    return rate


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


def _best(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the fastest of seven runs."""
    return min(timeit.repeat(run, timer=clock, number=1, repeat=7))
