"""Statistics of regions in one launch. x [B, H, W, C] -> out [B, H / h, W / w, 2C].

out = ([mean, spread] - shift) scale,  spread = log(variance + 1e-4) / 2 or sqrt(variance + 1e-6)

A program processes BLOCK_C channels of a region of h w tokens. It reads them twice: for the mean
and, from the cache, for the differences to it. All arithmetic is float32; the logarithm is
approximate. Limits: C a multiple of 16, x in float32/16/bfloat16, shift and scale in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from clinreadnet.kernels.dispatch import register, wrap_triton
from clinreadnet.kernels.grid import Size
from clinreadnet.kernels.launch import device_of, gpu_of, launch_config
from clinreadnet.kernels.ops.region_statistics.reference import (
    LOG_EPS,
    ROOT_EPS,
    region_statistics_reference,
)


@dataclass(frozen=True)
class RegionStatisticsConfig:
    """Launch configuration of the kernel."""

    block_n: int
    """Largest number of tokens per chunk; a power of two."""
    block_c: int
    """Largest number of channels per program; a power of two, at least 16."""
    num_warps: int
    precision: str = "tf32x3"
    """Unused: the kernel has no products of tensor cores."""


@triton.jit
def _region_statistics_fwd_kernel(
    x_ptr,
    shift_ptr,
    scale_ptr,
    W,
    out_ptr,
    CHANNELS: tl.constexpr,
    REGION_H: tl.constexpr,
    REGION_W: tl.constexpr,
    LOG: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0)
    chunks: tl.constexpr = CHANNELS // BLOCK_C
    region = program // chunks
    c = program % chunks * BLOCK_C + tl.arange(0, BLOCK_C)
    across = W // REGION_W
    row, column = region // across * REGION_H, region % across * REGION_W
    x_ptrs = x_ptr + (row.to(tl.int64) * W + column) * CHANNELS + c[None, :]
    place = tl.arange(0, BLOCK_N)

    TOKENS: tl.constexpr = REGION_H * REGION_W
    SHARE: tl.constexpr = 1.0 / TOKENS  # exact for a power of two; `div.full.f32` is not
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for start in tl.static_range(0, TOKENS, BLOCK_N):
        n = start + place[:, None]
        token = n // REGION_W * W + n % REGION_W
        total += tl.load(x_ptrs + token * CHANNELS, mask=n < TOKENS, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) * SHARE
    squares = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for start in tl.static_range(0, TOKENS, BLOCK_N):
        n = start + place[:, None]
        token = n // REGION_W * W + n % REGION_W
        x = tl.load(x_ptrs + token * CHANNELS, mask=n < TOKENS, other=0.0).to(tl.float32)
        difference = tl.where(n < TOKENS, x - mean[None, :], 0.0)
        squares += difference * difference
    variance = tl.sum(squares, axis=0) * SHARE
    if LOG:
        spread = tl.log(variance + EPS) * 0.5
    else:
        spread = tl.sqrt_rn(variance + EPS)

    out_ptrs = out_ptr + region.to(tl.int64) * (2 * CHANNELS) + c
    tl.store(out_ptrs, (mean - tl.load(shift_ptr + c)) * tl.load(scale_ptr + c))
    c += CHANNELS
    spread = (spread - tl.load(shift_ptr + c)) * tl.load(scale_ptr + c)
    tl.store(out_ptrs + CHANNELS, spread)


def region_statistics_constants(
    channels: int, region_h: int, region_w: int, log: bool, config: RegionStatisticsConfig
) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel."""
    # With two chunks or more, a thread never reduces its products with those of other threads.
    # Their rounding as one instruction would differ between the threads that hold the same sum.
    most = max(1, triton.next_power_of_2(region_h * region_w) // 2)
    return {
        "CHANNELS": channels,
        "REGION_H": region_h,
        "REGION_W": region_w,
        "LOG": log,
        "EPS": LOG_EPS if log else ROOT_EPS,
        "BLOCK_N": min(config.block_n, most),
        "BLOCK_C": math.gcd(config.block_c, channels),
    }


def region_statistics_config(
    log: bool, dtype: torch.dtype, gpu: str, capability: int
) -> RegionStatisticsConfig:
    """Return the launch configuration for a kind of spread and the dtype of x on a GPU."""
    keys = str(dtype).removeprefix("torch."), "log" if log else "root"
    return RegionStatisticsConfig(**launch_config(gpu, capability, "region_statistics", *keys))


def region_statistics_grid(regions: Size, channels: int, block_c: int) -> Size:
    """Return the number of programs of a launch."""
    return regions * (channels // block_c)


def _empty_output(
    x: Tensor, *others: Tensor, region_h: int, region_w: int, **options: Any
) -> Tensor:
    batch, h, w, c = x.shape
    shape = batch, h // region_h, w // region_w, 2 * c
    return x.new_empty(shape, dtype=torch.float32)


@triton_op("clinreadnet::region_statistics", mutates_args=())
def region_statistics_op(
    x: Tensor, shift: Tensor, scale: Tensor, *, region_h: int, region_w: int, log: bool
) -> Tensor:
    """The kernel as a torch op. ``region_statistics`` checks the arguments."""
    out = _empty_output(x, region_h=region_h, region_w=region_w)
    if out.numel() == 0:
        return out
    _, _, w, c = x.shape
    config = region_statistics_config(log, x.dtype, *gpu_of(x.device))
    constants = region_statistics_constants(c, region_h, region_w, log, config)
    grid = region_statistics_grid(out.numel() // (2 * c), c, constants["BLOCK_C"])
    with device_of(x):
        wrap_triton(_region_statistics_fwd_kernel)[(grid,)](
            x,
            shift.contiguous(),
            scale.contiguous(),
            w,
            out,
            **constants,
            num_warps=config.num_warps,
        )
    return out


register(region_statistics_op, _empty_output, region_statistics_reference)
