"""Sobel stem in one launch. x [B, 1, H, W] -> out [B, C0, ceil(H/2), ceil(W/2)], channels last.

gx, gy = Sobel(x) / 8 with a replicated border,  m = sqrt(gx^2 + gy^2 + 1e-6)
out    = GELU(conv3x3_stride2([x, gx, gy, m])), the four channels zero outside the image

A program owns a tile of output pixels and all their channels: it reads the 5x5 neighbourhoods of x
that the tile needs and writes each output once. Edges and GELU are float32; the convolution is one
matrix product for each row of the 3x3 kernel, in the dtype of weight, accumulated in float32.
Limits: float32/16/bfloat16, C0 <= 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from clinreadnet.kernels.dispatch import INTERPRETED, differentiate_as, wrap_triton
from clinreadnet.kernels.grid import Size, ceil_div
from clinreadnet.kernels.launch import device_of, gpu_of, launch_config
from clinreadnet.kernels.ops.sobel_stem.reference import MAGNITUDE_EPS, sobel_stem_reference

_EPS = tl.constexpr(MAGNITUDE_EPS)
_SQRT_HALF = tl.constexpr(0.5**0.5)


@dataclass(frozen=True)
class SobelStemConfig:
    """Launch configuration of the kernel."""

    block_h: int
    """Rows of a tile of output pixels; a power of two."""
    block_w: int
    """Columns of the tile; a power of two."""
    num_warps: int
    precision: str = "tf32x3"
    """Of float32 products where full precision is asked for: "tf32x3" or "ieee"."""


@triton.jit
def _pixel(x_ptr, row, column, H, W):
    """Value at (row, column), the border replicated."""
    row = tl.minimum(tl.maximum(row, 0), H - 1)
    column = tl.minimum(tl.maximum(column, 0), W - 1)
    return tl.load(x_ptr + row * W + column).to(tl.float32)


@triton.jit
def _quad(a, b, c, d):
    """Four tensors [...] as one [..., 2, 2], in this order."""
    return tl.join(tl.join(a, c), tl.join(b, d))


@triton.jit
def _channels(x_ptr, row, column, H, W):
    """(x, gx, gy, magnitude) at each of P pixels [P, 2, 2], zero outside the image."""
    # Neighbouring pixels read the same values; the compiler keeps one load of each.
    x00 = _pixel(x_ptr, row - 1, column - 1, H, W)
    x01 = _pixel(x_ptr, row - 1, column, H, W)
    x02 = _pixel(x_ptr, row - 1, column + 1, H, W)
    x10 = _pixel(x_ptr, row, column - 1, H, W)
    x11 = _pixel(x_ptr, row, column, H, W)
    x12 = _pixel(x_ptr, row, column + 1, H, W)
    x20 = _pixel(x_ptr, row + 1, column - 1, H, W)
    x21 = _pixel(x_ptr, row + 1, column, H, W)
    x22 = _pixel(x_ptr, row + 1, column + 1, H, W)
    gx = ((x02 - x00) + 2.0 * (x12 - x10) + (x22 - x20)) * 0.125
    gy = ((x20 - x00) + 2.0 * (x21 - x01) + (x22 - x02)) * 0.125
    magnitude = tl.sqrt_rn(gx * gx + gy * gy + _EPS)
    # The convolution pads with zeros, the Sobel filter replicates the border.
    inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
    return _quad(
        tl.where(inside, x11, 0.0),
        tl.where(inside, gx, 0.0),
        tl.where(inside, gy, 0.0),
        tl.where(inside, magnitude, 0.0),
    )


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
):
    out_h, out_w = (H + 1) // 2, (W + 1) // 2
    tiles_w = tl.cdiv(out_w, BLOCK_W)
    tiles = tl.cdiv(out_h, BLOCK_H) * tiles_w
    pid = tl.program_id(0)
    image, tile = pid // tiles, pid % tiles
    P: tl.constexpr = BLOCK_H * BLOCK_W
    place = tl.arange(0, P)
    i = tile // tiles_w * BLOCK_H + place // BLOCK_W  # [P]
    j = tile % tiles_w * BLOCK_W + place % BLOCK_W
    c = tl.arange(0, BLOCK_C)
    x_ptr += image.to(tl.int64) * H * W

    k = tl.arange(0, 16)  # (channel, column of the 3x3 kernel, one of padding)
    w_ptrs = weight_ptr + c[None, :] * 36 + (k // 4 * 9 + k % 4)[:, None]
    w_mask = (k % 4 < 3)[:, None] & (c < C0)[None, :]

    acc = tl.zeros((P, BLOCK_C), tl.float32)
    for di in tl.static_range(3):
        row, column = 2 * i + (di - 1), 2 * j
        left = _channels(x_ptr, row, column - 1, H, W)
        middle = _channels(x_ptr, row, column, H, W)
        right = _channels(x_ptr, row, column + 1, H, W)
        patch = _quad(left, middle, right, tl.zeros_like(left))  # [P, 2, 2, 2, 2]
        weight = tl.load(w_ptrs + di * 3, mask=w_mask, other=0.0)  # [16, BLOCK_C]
        patch = tl.reshape(patch, (P, 16)).to(weight.dtype)
        acc = tl.dot(patch, weight, acc, input_precision=PRECISION)
    acc += tl.load(bias_ptr + c, mask=c < C0, other=0.0).to(tl.float32)[None, :]

    out = 0.5 * acc * (1.0 + tl.erf(acc * _SQRT_HALF))
    pixel = (image.to(tl.int64) * out_h + i) * out_w + j
    mask = ((i < out_h) & (j < out_w))[:, None] & (c < C0)[None, :]
    out_ptrs = out_ptr + pixel[:, None] * C0 + c[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=mask)


def _padded(c0: int) -> int:
    """Output channels of a tile: a matrix product takes 16 at least."""
    return max(16, int(triton.next_power_of_2(c0)))


def sobel_stem_constants(c0: int, config: SobelStemConfig) -> dict[str, Any]:
    """Compile-time arguments of the kernel for ``c0`` output channels."""
    return {
        "C0": c0,
        "BLOCK_C": _padded(c0),
        "BLOCK_H": config.block_h,
        "BLOCK_W": config.block_w,
        "PRECISION": config.precision,
    }


def sobel_stem_config(c0: int, gpu: str, capability: int) -> SobelStemConfig:
    """Launch configuration for ``c0`` output channels on a GPU."""
    return SobelStemConfig(**launch_config(gpu, capability, "sobel_stem", str(_padded(c0))))


def sobel_stem_grid(batch: Size, h: Size, w: Size, block_h: int, block_w: int) -> Size:
    """Programs for x [batch, 1, h, w]: one for each tile of output pixels."""
    return batch * (ceil_div((h + 1) // 2, block_h) * ceil_div((w + 1) // 2, block_w))


def _empty_output(x: Tensor, weight: Tensor) -> Tensor:
    batch, _, h, w = x.shape
    shape = (batch, weight.shape[0], (h + 1) // 2, (w + 1) // 2)
    channels_last = torch.channels_last
    return torch.empty(shape, dtype=weight.dtype, device=x.device, memory_format=channels_last)


@triton_op("clinreadnet::sobel_stem", mutates_args=())
def sobel_stem_op(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The kernel as a torch op, for arguments that ``sobel_stem`` has checked."""
    out = _empty_output(x, weight)
    if out.numel() == 0:
        return out
    batch, _, h, w = x.shape
    c0 = weight.shape[0]
    config = sobel_stem_config(c0, *gpu_of(x.device))
    grid = sobel_stem_grid(batch, h, w, config.block_h, config.block_w)
    with device_of(x):
        wrap_triton(_sobel_stem_fwd_kernel)[(grid,)](
            x,
            weight.contiguous(),
            bias.contiguous(),
            h,
            w,
            out,
            **sobel_stem_constants(c0, config),
            num_warps=config.num_warps,
        )
    return out


# Otherwise the body of the op would be its fake, and tracing would run the interpreted kernel.
@sobel_stem_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _empty_output(x, weight)


def _on_cpu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return sobel_stem_reference(x, weight, bias).contiguous(memory_format=torch.channels_last)


if not INTERPRETED:
    sobel_stem_op.register_kernel("cpu", _on_cpu)


differentiate_as(sobel_stem_op, sobel_stem_reference)
