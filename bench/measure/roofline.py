"""How fast the network could be: its operations and bytes at least, and what the machine can do.

A product of [m, k] and [k, n] counts 2 m k n operations; everything else (softmax, LayerNorm, GELU,
the Sobel sums) counts none, so that a percentage of the limit is never flattered. An op must read
its inputs and weights once and write its output once; the network as a whole need only read the
slices and the weights and write its outputs, since a perfect one keeps all else on the chip.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clinreadnet.precision import PRECISIONS, torch_precisions, with_wider
from clinreadnet.spec import FINE_GRADES, SIZE

if TYPE_CHECKING:
    from clinreadnet.model.network import ClinReadNetConfig


@dataclass(frozen=True)
class Work:
    """Floating-point operations, and bytes read and written, of one run at least."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def limit(self, rates: Mapping[str, float], precision: str) -> float:
        """Return the seconds that no implementation on this machine undercuts.

        Args:
            rates: ``copy`` in bytes/s and the matmul rates in FLOP/s, by precision. Where the
                precision's own was not measured, as for 8-bit products, a wider one stands in.
            precision: of the run.
        """
        rate = max(rates[p] for p in with_wider(precision) if p in rates)
        return max(self.flops / rate, self.bytes / rates["copy"])


def product(m: float, k: float, n: float, item: int) -> Work:
    """A layer that multiplies [m, k] by weights [k, n] and adds a bias [n]."""
    return Work(2 * m * k * n, item * (m * k + k * n + n + m * n))


def sobel_stem(batch: int, side: int, channels: int, item: int) -> Work:
    """[B, 1, S, S] float32 to [B, C0, S / 2, S / 2]: a 3x3 convolution over four channels."""
    pixels = batch * (side // 2) ** 2
    moved = 4 * batch * side**2 + item * (pixels * channels + 4 * 9 * channels + channels)
    return Work(2 * pixels * 4 * 9 * channels, moved)


def window_attention(
    batch: int, side: int, channels: int, heads: int, window: int, octaves: int, item: int
) -> Work:
    """Qkv [B, S, S, 3C] to [B, S, S, C]; its parameters are float32."""
    tokens, n = batch * side**2, window**2
    parameters = heads * n * n + heads + heads * octaves
    return Work(2 * 2 * tokens * n * channels, item * 4 * tokens * channels + 4 * parameters)


def ops(config: ClinReadNetConfig, batch: int, precision: str, side: int = SIZE) -> dict[str, Work]:
    """Return the work of each op of the network, by name; stages are counted from 1.

    Args:
        config: shape of the network.
        batch: slices of one run.
        precision: of weights and activations.
        side: of a slice in pixels.
    """
    from clinreadnet.model.soqn import TOKEN_STEP

    item, dim = PRECISIONS[precision].item_size, config.embed_dim
    found = {"sobel_stem": sobel_stem(batch, side, dim // 2, item)}
    side //= 4
    half, tokens = dim // 2, batch * side**2
    found["embed"] = Work(
        2 * tokens * 9 * half * dim,
        item * (4 * tokens * half + 9 * half * dim + dim + tokens * dim),
    )
    statistics = (
        product(tokens // TOKEN_STEP**2, dim, dim, item)
        + product(tokens // TOKEN_STEP**2, dim, config.regions, item)
        + product(batch, 2 * config.regions * dim, config.prior_dim, item)
        + product(batch, config.prior_dim, FINE_GRADES, item)
    )
    for stage, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True), 1):
        if stage > 1:
            side //= 2
            tokens = batch * side**2
            merged = product(tokens, 4 * dim, 2 * dim, item)
            found[f"merge {stage}"] = merged + Work(0, -item * 2 * dim)  # it adds no bias
            dim *= 2
        one = window_attention(batch, side, dim, heads, config.window, config.octaves, item)
        hidden = config.mlp_ratio * dim
        layers = {
            "qkv": product(tokens, dim, 3 * dim, item),
            "window_attention": one,
            "projection": product(tokens, dim, dim, item),
            "mlp": product(tokens, dim, hidden, item) + product(tokens, hidden, dim, item),
        }
        for name, work in layers.items():
            found[f"{name} {stage}"] = Work(depth * work.flops, depth * work.bytes)
    found["head"] = product(tokens, dim, FINE_GRADES + 1, item) + statistics
    return found


def network(
    config: ClinReadNetConfig, batch: int, precision: str, parameters: int, side: int = SIZE
) -> Work:
    """Return the work of the whole network, slices and outputs being float32.

    Args:
        config, batch, precision, side: as in `ops`.
        parameters: how many weights it has.
    """
    flops = sum(work.flops for work in ops(config, batch, precision, side).values())
    outputs = batch * (1 + FINE_GRADES + (side // 32) ** 2)
    return Work(
        flops, 4 * (batch * side**2 + outputs) + PRECISIONS[precision].item_size * parameters
    )


def measure_rates() -> dict[str, float]:
    """Measure this machine: ``copy`` in bytes/s, and matmuls in FLOP/s by precision.

    On a GPU where PyTorch can use one, else on the processor; the best of several, since a limit is
    what the machine can do. Without PyTorch, NumPy's float32 on the processor.
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
        rates[precision] = 2 * 2048**3 / _best(lambda a=a: a @ a)
    return rates


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


def _best(run, repeats: int = 7) -> float:
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
