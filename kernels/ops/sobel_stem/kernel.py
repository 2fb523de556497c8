"""Sobel stem in one launch. x [B, 1, H, W] -> out [B, C0, ceil(H/2), ceil(W/2)], channels last.

x      = clip((x - lowest) / span, 0, 1), if both are given
gx, gy = Sobel(x) / 8 with a replicated border,  m = sqrt(gx^2 + gy^2 + 1e-6)
out    = GELU(conv3x3_stride2([x, gx, gy, m])), the four channels zero outside the image

A program computes a tile of output pixels with all channels: it reads the neighbourhoods of x for
the tile and writes each output once. Two neighbouring outputs share the edges between them. Edges
and GELU are float32. The convolution is a matrix product for each row of the 3x3 kernel, in the
dtype of weight with float32 accumulation. The root of the magnitude (error one unit in the last
place) and GELU (`clinreadnet.kernels.ops.gelu.kernel`) are approximate. Limits:
float32/16/bfloat16, C0 <= 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from clinreadnet.kernels.dispatch import register, wrap_triton
from clinreadnet.kernels.grid import Size, ceil_div
from clinreadnet.kernels.launch import device_of, gpu_of, launch_config
from clinreadnet.kernels.ops.gelu.kernel import gelu
from clinreadnet.kernels.ops.sobel_stem.reference import MAGNITUDE_EPS, sobel_stem_reference

_EPS = tl.constexpr(MAGNITUDE_EPS)


@dataclass(frozen=True)
class SobelStemConfig:
    """Launch configuration of the kernel."""

    block_h: int
    """Rows per tile of output pixels; a power of two."""
    block_w: int
    """Columns per tile; a power of two, at least 2."""
    num_warps: int
    precision: str = "tf32x3"
    """Float32 products at full precision: "tf32x3" or "ieee"."""


@triton.jit
def _value(ptrs, LOWEST: tl.constexpr, SPAN: tl.constexpr):
    """Load values, and encode them unless LOWEST is None."""
    x = tl.load(ptrs).to(tl.float32)
    if LOWEST is not None:
        x = tl.minimum(tl.maximum((x - LOWEST) * (1 / SPAN), 0.0), 1.0)
    return x


@triton.jit
def _row(x_ptr, row, column, H, W, LOWEST: tl.constexpr, SPAN: tl.constexpr):
    """Load seven neighbouring values of a row from ``column`` - 1, with replicated border."""
    x_ptr += tl.minimum(tl.maximum(row, 0), H - 1) * W
    c0 = tl.minimum(tl.maximum(column - 1, 0), W - 1)
    c1 = tl.minimum(tl.maximum(column, 0), W - 1)
    x0, x1 = _value(x_ptr + c0, LOWEST, SPAN), _value(x_ptr + c1, LOWEST, SPAN)
    x2 = _value(x_ptr + tl.minimum(column + 1, W - 1), LOWEST, SPAN)
    x3 = _value(x_ptr + tl.minimum(column + 2, W - 1), LOWEST, SPAN)
    x4 = _value(x_ptr + tl.minimum(column + 3, W - 1), LOWEST, SPAN)
    x5 = _value(x_ptr + tl.minimum(column + 4, W - 1), LOWEST, SPAN)
    x6 = _value(x_ptr + tl.minimum(column + 5, W - 1), LOWEST, SPAN)
    return x0, x1, x2, x3, x4, x5, x6


@triton.jit
def _quad(a, b, c, d):
    """Join four tensors [...] to [..., 2, 2], in this order."""
    return tl.join(tl.join(a, c), tl.join(b, d))


@triton.jit
def _channels(above, here, below, at: tl.constexpr, inside):
    """Return (x, gx, gy, magnitude) [..., 2, 2] at a column; zero outside the image."""
    right = above[at + 1] + 2.0 * here[at + 1] + below[at + 1]
    left = above[at - 1] + 2.0 * here[at - 1] + below[at - 1]
    lower = below[at - 1] + 2.0 * below[at] + below[at + 1]
    upper = above[at - 1] + 2.0 * above[at] + above[at + 1]
    gx, gy = (right - left) * 0.125, (lower - upper) * 0.125
    magnitude = tl.sqrt(gx * gx + gy * gy + _EPS)
    # The convolution pads with zeros, the Sobel filter replicates the border.
    return _quad(
        tl.where(inside, here[at], 0.0),
        tl.where(inside, gx, 0.0),
        tl.where(inside, gy, 0.0),
        tl.where(inside, magnitude, 0.0),
    )


@triton.jit
def _patches(above, here, below, row, column, H, W):
    """Return the inputs [2 P, 16] of a row of the 3x3 kernel for P pairs of neighbouring pixels."""
    inside = (row >= 0) & (row < H)
    p0 = _channels(above, here, below, 1, inside & (column >= 0))
    p1 = _channels(above, here, below, 2, inside)
    p2 = _channels(above, here, below, 3, inside & (column + 2 < W))
    p3 = _channels(above, here, below, 4, inside)
    p4 = _channels(above, here, below, 5, inside & (column + 4 < W))
    none = tl.zeros_like(p0)
    pair = tl.join(_quad(p0, p1, p2, none), _quad(p2, p3, p4, none))  # [P, 2, 2, 2, 2, 2]
    return tl.reshape(tl.permute(pair, (0, 5, 1, 2, 3, 4)), (2 * row.shape[0], 16))


@triton.jit
def _sobel_stem_fwd_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    H,
    W,
    out_ptr,
    C0: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    PRECISION: tl.constexpr,
    LOWEST: tl.constexpr,
    SPAN: tl.constexpr,
):
    out_h, out_w = (H + 1) // 2, (W + 1) // 2
    tiles_w = tl.cdiv(out_w, BLOCK_W)
    tiles = tl.cdiv(out_h, BLOCK_H) * tiles_w
    pid = tl.program_id(0)
    image, tile = pid // tiles, pid % tiles
    first_i, first_j = tile // tiles_w * BLOCK_H, tile % tiles_w * BLOCK_W
    x_ptr += image.to(tl.int64) * H * W

    PAIRS: tl.constexpr = BLOCK_H * BLOCK_W // 2
    pair = tl.arange(0, PAIRS)
    row = 2 * (first_i + pair // (BLOCK_W // 2)) - 1  # of the first input pixel
    column = 2 * (first_j + pair % (BLOCK_W // 2) * 2) - 1
    r0 = _row(x_ptr, row - 1, column, H, W, LOWEST, SPAN)
    r1 = _row(x_ptr, row, column, H, W, LOWEST, SPAN)
    r2 = _row(x_ptr, row + 1, column, H, W, LOWEST, SPAN)
    r3 = _row(x_ptr, row + 2, column, H, W, LOWEST, SPAN)
    r4 = _row(x_ptr, row + 3, column, H, W, LOWEST, SPAN)
    dtype = weight_ptr.dtype.element_ty
    patch0 = _patches(r0, r1, r2, row, column, H, W).to(dtype)
    patch1 = _patches(r1, r2, r3, row + 1, column, H, W).to(dtype)
    patch2 = _patches(r2, r3, r4, row + 2, column, H, W).to(dtype)

    place = tl.arange(0, 2 * PAIRS)
    i, j = first_i + place // BLOCK_W, first_j + place % BLOCK_W
    out_ptrs = out_ptr + ((image.to(tl.int64) * out_h + i) * out_w + j)[:, None] * C0
    stored = ((i < out_h) & (j < out_w))[:, None]
    # Element k of a patch is a channel and a column of the 3x3 kernel. The fourth column of the
    # patch is zero, so its weights are irrelevant, like those of channels past the last.
    k = tl.arange(0, 16)
    k = k // 4 * 9 + tl.minimum(k % 4, 2)
    for first in tl.static_range(0, C0, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        held = tl.minimum(c, C0 - 1)
        w_ptrs = weight_ptr + held[None, :] * 36 + k[:, None]
        acc = tl.zeros((2 * PAIRS, BLOCK_C), tl.float32)
        acc = tl.dot(patch0, tl.load(w_ptrs), acc, input_precision=PRECISION)
        acc = tl.dot(patch1, tl.load(w_ptrs + 3), acc, input_precision=PRECISION)
        acc = tl.dot(patch2, tl.load(w_ptrs + 6), acc, input_precision=PRECISION)
        acc += tl.load(bias_ptr + held).to(tl.float32)[None, :]
        out = gelu(acc, out_ptr.dtype.element_ty == tl.float32).to(out_ptr.dtype.element_ty)
        tl.store(out_ptrs + c[None, :], out, mask=stored & (c < C0)[None, :])


def _padded(c0: int) -> int:
    """Return the key of the configuration for ``c0`` output channels."""
    return max(16, int(triton.next_power_of_2(c0)))


def _chunk(c0: int, dtype: torch.dtype) -> int:
    """Return the output channels per product; a power of two, at least 8.

    In float32 it is all channels, because the three parts of the patches do not fit in registers.
    """
    if dtype == torch.float32:
        return _padded(c0)
    eights = -(-c0 // 8)
    return 8 * (eights & -eights)  # no padding


def sobel_stem_constants(
    c0: int,
    dtype: torch.dtype,
    config: SobelStemConfig,
    lowest: float | None = None,
    span: float | None = None,
) -> dict[str, Any]:
    """Return the compile-time arguments for ``c0`` output channels and the type of weights."""
    return {
        "C0": c0,
        "BLOCK_C": _chunk(c0, dtype),
        "BLOCK_H": config.block_h,
        "BLOCK_W": config.block_w,
        "PRECISION": config.precision,
        "LOWEST": lowest,
        "SPAN": span,
    }


def sobel_stem_config(c0: int, dtype: torch.dtype, gpu: str, capability: int) -> SobelStemConfig:
    """Return the launch configuration for ``c0`` channels and the dtype of weight on a GPU."""
    keys = str(dtype).removeprefix("torch."), str(_padded(c0))
    return SobelStemConfig(**launch_config(gpu, capability, "sobel_stem", *keys))


def sobel_stem_grid(batch: Size, h: Size, w: Size, block_h: int, block_w: int) -> Size:
    """Return the number of programs for x [batch, 1, h, w]: one for each tile of output pixels."""
    return batch * (ceil_div((h + 1) // 2, block_h) * ceil_div((w + 1) // 2, block_w))


def _empty_output(x: Tensor, weight: Tensor, *others: Tensor, **encoding: Any) -> Tensor:
    batch, _, h, w = x.shape
    shape = (batch, weight.shape[0], (h + 1) // 2, (w + 1) // 2)
    channels_last = torch.channels_last
    return torch.empty(shape, dtype=weight.dtype, device=x.device, memory_format=channels_last)


@triton_op("clinreadnet::sobel_stem", mutates_args=())
def sobel_stem_op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    lowest: float | None = None,
    span: float | None = None,
) -> Tensor:
    """The kernel as a torch op. ``sobel_stem`` checks the arguments."""
    out = _empty_output(x, weight)
    if out.numel() == 0:
        return out
    batch, _, h, w = x.shape
    c0 = weight.shape[0]
    config = sobel_stem_config(c0, weight.dtype, *gpu_of(x.device))
    grid = sobel_stem_grid(batch, h, w, config.block_h, config.block_w)
    with device_of(x):
        wrap_triton(_sobel_stem_fwd_kernel)[(grid,)](
            x,
            weight.contiguous(),
            bias.contiguous(),
            h,
            w,
            out,
            **sobel_stem_constants(c0, weight.dtype, config, lowest, span),
            num_warps=config.num_warps,
        )
    return out


def _on_cpu(x: Tensor, weight: Tensor, bias: Tensor, **encoding: float | None) -> Tensor:
    out = sobel_stem_reference(x, weight, bias, **encoding)
    return out.contiguous(memory_format=torch.channels_last)


register(sobel_stem_op, _empty_output, sobel_stem_reference, _on_cpu)
