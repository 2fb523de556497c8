"""A linear layer with LayerNorm, GELU and residual in one launch. x [..., C] -> out [..., N].

out = [residual +] [GELU]([LayerNorm](x) @ W^T [+ b]), each part in brackets optional

A token can be 2x2 neighbours of a map [B, H, W, C / 4]: two runs of C / 2 channels. A program
processes BLOCK_M tokens and BLOCK_N outputs, and loops over chunks of the channels. With LayerNorm
it reads its tokens twice: first for mean and inverse deviation, then, from the cache, to normalise
and multiply each chunk. Products are in the dtype of x with float32 accumulation;
LayerNorm, bias, GELU and residual are float32. Values that are rounded to the dtype of x:
normalised tokens, output. GELU is approximate; `clinreadnet.kernels.ops.gelu.kernel` states its
error. Limits: C and N multiples of 32, float16/bfloat16.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from clinreadnet.kernels.dispatch import register, require, wrap_triton
from clinreadnet.kernels.grid import Size, ceil_div
from clinreadnet.kernels.launch import config_file, device_of, gpu_of, launch_config
from clinreadnet.kernels.ops.fused_linear.reference import fused_linear_reference
from clinreadnet.kernels.ops.gelu.kernel import gelu as approximate_gelu

SIZES: Mapping[str, tuple[int, int | None]] = {
    "small": (1, 1024),
    "medium": (1025, 8192),
    "large": (8193, None),
}
"""Smallest and largest number of tokens of each key of the configuration files. Stages 3 and 4 of
the preset `small` have 1024 and 256 tokens per slice: they are small at batch 1, medium at 8 and
large at 64."""


def size_of(tokens: int) -> str:
    """Return the key in ``SIZES`` of a number of tokens."""
    return next(size for size, (_, most) in SIZES.items() if most is None or tokens <= most)


@dataclass(frozen=True)
class FusedLinearConfig:
    """Launch configuration of the kernel."""

    block_m: int
    """Tokens per program; a power of two, at least 16."""
    block_n: int
    """Outputs per program, at most the next power of two of all; a power of two, at least 16."""
    block_k: int
    """Largest number of channels per chunk; a power of two, at least 16."""
    num_warps: int
    stages: int
    """Pipeline stages over the chunks: above 1, the next chunks are prefetched."""
    precision: str = "tf32x3"
    """Precision of float32 products; unused for half precision."""
    library: Mapping[str, int] = field(default_factory=dict)
    """Least number of tokens from which PyTorch's libraries compute a layer instead of the
    kernel, by its sides "CxN". `clinreadnet tune` sets it where they are faster."""

    def uses_library(self, tokens: int, channels: int, outputs: int) -> bool:
        """Return whether PyTorch's libraries compute a layer."""
        return tokens >= self.library.get(f"{channels}x{outputs}", math.inf)


@triton.jit
def _fused_linear_fwd_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    residual_ptr,
    tokens,
    W,
    out_ptr,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    GELU: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    # Neighbouring programs share tokens, which are then in the L2 cache. It contains all weights,
    # so their order does not matter.
    program = tl.program_id(0)
    tiles: tl.constexpr = tl.cdiv(OUTPUTS, BLOCK_N)
    m = (program // tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = program % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < OUTPUTS
    k = tl.arange(0, BLOCK_K)
    # Rows past the last token repeat that token and are not stored.
    row = tl.minimum(m, tokens - 1)
    if W is None:
        origin = row * CHANNELS
        gap = 0
    else:
        # The upper two of 2x2 neighbours are contiguous, and the lower two a row of x later.
        above = row.to(tl.int32) // (W // 2)  # a 64-bit division takes far longer
        origin = (2 * row + above.to(tl.int64) * W) * (CHANNELS // 4)
        gap = (W - 2) * (CHANNELS // 4)
    x_ptrs = x_ptr + origin[:, None] + k[None, :]  # [BLOCK_M, BLOCK_K]
    w_ptrs = weight_ptr + n[None, :] * CHANNELS + k[:, None]  # [BLOCK_K, BLOCK_N]

    if norm_weight_ptr is not None:
        # A value differs from the mean by at most sqrt(C - 1) deviations, so cancellation in sums
        # of differences from the first channel costs at most a factor of C.
        first = tl.load(x_ptr + origin).to(tl.float32)
        total = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
        squares = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
        for start in tl.static_range(0, CHANNELS, BLOCK_K):  # unrolled: all loads at once
            at = start + start // (CHANNELS // 2) * gap
            difference = tl.load(x_ptrs + at).to(tl.float32) - first[:, None]
            total += difference
            squares += difference * difference
        shift = tl.sum(total, axis=1) / CHANNELS
        variance = tl.maximum(tl.sum(squares, axis=1) / CHANNELS - shift * shift, 0.0)
        mean = first + shift
        scale = 1.0 / tl.sqrt_rn(variance + EPS)

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in tl.range(0, CHANNELS, BLOCK_K, num_stages=STAGES):
        x = tl.load(x_ptrs + start + start // (CHANNELS // 2) * gap)
        if norm_weight_ptr is not None:
            weight = tl.load(norm_weight_ptr + start + k).to(tl.float32)
            bias = tl.load(norm_bias_ptr + start + k).to(tl.float32)
            y = (x.to(tl.float32) - mean[:, None]) * scale[:, None]
            x = (y * weight[None, :] + bias[None, :]).to(x.dtype)
        acc = tl.dot(x, tl.load(w_ptrs + start, mask=inside[None, :], other=0.0), acc)

    if bias_ptr is not None:
        acc += tl.load(bias_ptr + n, mask=inside, other=0.0).to(tl.float32)[None, :]
    if GELU:
        acc = approximate_gelu(acc, False)
    offset = row[:, None] * OUTPUTS + n[None, :]
    if residual_ptr is not None:
        acc += tl.load(residual_ptr + offset, mask=inside[None, :], other=0.0)
    stored = (m < tokens)[:, None] & inside[None, :]
    tl.store(out_ptr + offset, acc.to(out_ptr.dtype.element_ty), mask=stored)


def fused_linear_constants(
    channels: int, outputs: int, gelu: bool, eps: float, merge: bool, config: FusedLinearConfig
) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel."""
    run = channels // 2 if merge else channels  # of contiguous channels
    return {
        "CHANNELS": channels,
        "OUTPUTS": outputs,
        "GELU": gelu,
        "EPS": eps,
        "BLOCK_M": config.block_m,
        "BLOCK_N": min(config.block_n, triton.next_power_of_2(outputs)),
        "BLOCK_K": math.gcd(config.block_k, run),
        "STAGES": config.stages,
    }


def fused_linear_config(
    normalised: bool, tokens: int, dtype: torch.dtype, gpu: str, capability: int
) -> FusedLinearConfig:
    """Return the launch configuration, with or without LayerNorm, for the dtype of x on a GPU.

    Raises:
        ValueError: ``library`` in the file has another form.
    """
    kind = "norm" if normalised else "plain"
    keys = "fused_linear", str(dtype).removeprefix("torch."), kind, size_of(tokens)
    config = FusedLinearConfig(**launch_config(gpu, capability, *keys))
    if config.library != {}:  # hardly ever, and this function is called at each launch
        require(
            isinstance(config.library, dict)
            and all(re.fullmatch(r"[1-9]\d*x[1-9]\d*", sides) for sides in config.library)
            and all(type(least) is int and least > 0 for least in config.library.values()),
            f"{config_file(gpu, capability)}: {'/'.join(keys)}: library={config.library!r}: give a "
            'number of tokens above 0 for each layer, such as {"768x192": 8193}',
        )
    return config


def fused_linear_grid(tokens: Size, outputs: int, block_m: int, block_n: int) -> Size:
    """Return the number of programs of a launch."""
    return ceil_div(tokens, block_m) * -(-outputs // block_n)


def _fake(
    x: Tensor, weight: Tensor, *others: Tensor | None, merge: bool = False, **constants: Any
) -> Tensor:
    *sizes, _ = x.shape
    if merge:
        batch, h, w = sizes
        sizes = [batch, h // 2, w // 2]
    return x.new_empty((*sizes, weight.shape[0]))


@triton_op("clinreadnet::fused_linear", mutates_args=())
def fused_linear_op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    residual: Tensor | None,
    *,
    gelu: bool,
    eps: float,
    merge: bool = False,
) -> Tensor:
    """The kernel, or PyTorch's libraries, as a torch op. ``fused_linear`` checks the arguments."""
    outputs, channels = weight.shape
    out = _fake(x, weight, merge=merge)
    if out.numel() == 0:
        return out
    tokens = x.numel() // channels
    gpu = gpu_of(x.device)
    config = fused_linear_config(norm_weight is not None, tokens, x.dtype, *gpu)
    if config.uses_library(tokens, channels, outputs):
        tensors = x, weight, bias, norm_weight, norm_bias, residual
        return fused_linear_reference(*tensors, gelu=gelu, eps=eps, merge=merge)
    constants = fused_linear_constants(channels, outputs, gelu, eps, merge, config)
    grid = fused_linear_grid(tokens, outputs, constants["BLOCK_M"], constants["BLOCK_N"])
    with device_of(x):
        wrap_triton(_fused_linear_fwd_kernel)[(grid,)](
            x,
            weight.contiguous(),
            None if bias is None else bias.contiguous(),
            None if norm_weight is None else norm_weight.contiguous(),
            None if norm_bias is None else norm_bias.contiguous(),
            residual,
            tokens,
            x.shape[-2] if merge else None,
            out,
            **constants,
            num_warps=config.num_warps,
        )
    return out


register(fused_linear_op, _fake, fused_linear_reference)
