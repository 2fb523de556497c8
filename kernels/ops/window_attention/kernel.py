"""Windowed multi-temperature attention. qkv [B, H, W, 3C] -> out [B, H, W, C], nothing copied.

S = q k^T / sqrt(d) + bias          within one (shifted) window
P = sum_t g_t softmax(2^t beta S)   one exponential, squared once per octave
out = P v

A program owns up to BLOCK_M rows of one head in one window: shift, partition, region mask and
un-shift are the arithmetic of its addresses. Scores and softmax are float32.
Limits: head_dim 16 or 32, windows 4...16, up to 4 octaves, float32/16/bfloat16.
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
from clinreadnet.kernels.ops.window_attention.reference import window_attention_reference

_LOG2_E = tl.constexpr(1.4426950408889634)


@dataclass(frozen=True)
class WindowAttentionConfig:
    """Launch configuration of the kernel."""

    block_m: int
    """Rows of scores in a program; a power of two, 16 at least."""
    num_warps: int
    precision: str = "tf32x3"
    """Of float32 products where full precision is asked for: "tf32x3" or "ieee"."""


@triton.jit
def window_token(place, window_y, window_x, H, W, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """Index in the image of each place of the shifted window, and its region."""
    y = window_y * WINDOW + place // WINDOW
    x = window_x * WINDOW + place % WINDOW
    # Only the last windows of a shifted image contain several regions.
    region = 2 * (y >= H - SHIFT).to(tl.int32) + (x >= W - SHIFT).to(tl.int32)
    y = tl.where(y >= H - SHIFT, y - (H - SHIFT), y + SHIFT)
    x = tl.where(x >= W - SHIFT, x - (W - SHIFT), x + SHIFT)
    return (y * W + x).to(tl.int64), region


@triton.jit
def attend(
    q,
    k,
    v,
    bias,
    inv_temperature,
    gates_ptr,
    row_region,
    column_region,
    N: tl.constexpr,
    REGIONS: tl.constexpr,
    OCTAVES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Rows q [M, D] of one head over the first N of the columns k, v [BLOCK_N, D]: float32."""
    HEAD_DIM: tl.constexpr = q.shape[1]
    BLOCK_N: tl.constexpr = k.shape[0]
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * HEAD_DIM**-0.5 + bias
    scores *= inv_temperature * _LOG2_E  # [M, BLOCK_N], in octaves
    if BLOCK_N > N:
        inside = tl.arange(0, BLOCK_N) < N
        scores = tl.where(inside[None, :], scores, float("-inf"))
    if REGIONS:  # of a shifted window
        same = row_region[:, None] == column_region[None, :]
        scores = tl.where(same, scores, float("-inf"))
    power = tl.exp2(scores - tl.max(scores, axis=1)[:, None])
    weights = power * (tl.load(gates_ptr) / tl.sum(power, axis=1))[:, None]
    for t in tl.static_range(1, OCTAVES):
        power *= power
        weights += power * (tl.load(gates_ptr + t) / tl.sum(power, axis=1))[:, None]
    return tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)


@triton.jit
def _window_attention_fwd_kernel(
    qkv_ptr,
    bias_ptr,
    inv_temperature_ptr,
    gates_ptr,
    heads,
    H,
    W,
    out_ptr,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    OCTAVES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    N: tl.constexpr = WINDOW * WINDOW
    TILES: tl.constexpr = (N + BLOCK_M - 1) // BLOCK_M
    pid = tl.program_id(0)
    tile = pid % TILES
    # Heads before windows: programs that run together read the same lines of qkv.
    head = pid // TILES % heads
    window = pid // TILES // heads
    windows_x = W // WINDOW
    windows = (H // WINDOW) * windows_x
    image, window = window // windows, window % windows
    window_y, window_x = window // windows_x, window % windows_x

    # Places past the window repeat its last one, so that every address and row is a valid one;
    # their columns have zero weight and their rows are not stored.
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    row, column = tl.minimum(m, N - 1), n
    if BLOCK_N > N:
        column = tl.minimum(n, N - 1)
    row_token, row_region = window_token(row, window_y, window_x, H, W, WINDOW, SHIFT)
    column_token, column_region = window_token(column, window_y, window_x, H, W, WINDOW, SHIFT)
    channels = heads * HEAD_DIM
    d = tl.arange(0, HEAD_DIM)
    qkv_ptr += image.to(tl.int64) * H * W * (3 * channels) + head * HEAD_DIM
    q_ptrs = qkv_ptr + row_token[:, None] * (3 * channels) + d[None, :]
    k_ptrs = qkv_ptr + channels + column_token[:, None] * (3 * channels) + d[None, :]
    q, k, v = tl.load(q_ptrs), tl.load(k_ptrs), tl.load(k_ptrs + channels)

    bias_ptr += head.to(tl.int64) * N * N
    bias = tl.load(bias_ptr + row[:, None] * N + column[None, :])
    attended = attend(
        q,
        k,
        v,
        bias,
        tl.load(inv_temperature_ptr + head),
        gates_ptr + head * OCTAVES,
        row_region,
        column_region,
        N,
        SHIFT > 0,
        OCTAVES,
        PRECISION,
    )
    out_ptr += image.to(tl.int64) * H * W * channels + head * HEAD_DIM
    out_ptrs = out_ptr + row_token[:, None] * channels + d[None, :]
    tl.store(out_ptrs, attended.to(out_ptr.dtype.element_ty), mask=(m < N)[:, None])


def window_attention_constants(
    window: int, shift: int, head_dim: int, octaves: int, config: WindowAttentionConfig
) -> dict[str, Any]:
    """Compile-time arguments of the kernel."""
    return {
        "WINDOW": window,
        "SHIFT": shift,
        "HEAD_DIM": head_dim,
        "OCTAVES": octaves,
        "BLOCK_M": config.block_m,
        "BLOCK_N": triton.next_power_of_2(window * window),
        "PRECISION": config.precision,
    }


def window_attention_config(
    window: int, dtype: torch.dtype, gpu: str, capability: int
) -> WindowAttentionConfig:
    """Launch configuration for a window side and the dtype of qkv on a GPU."""
    keys = str(dtype).removeprefix("torch."), str(triton.next_power_of_2(window * window))
    return WindowAttentionConfig(**launch_config(gpu, capability, "window_attention", *keys))


def window_attention_grid(
    batch: Size, h: Size, w: Size, heads: Size, window: int, block_m: int
) -> Size:
    """Programs for qkv [batch, h, w, 3C]: one for each tile of rows of each head and window."""
    return batch * (h // window) * (w // window) * heads * ceil_div(window * window, block_m)


def _empty_output(qkv: Tensor) -> Tensor:
    batch, h, w, c3 = qkv.shape
    return qkv.new_empty(batch, h, w, c3 // 3)


@triton_op("clinreadnet::window_attention", mutates_args=())
def window_attention_op(
    qkv: Tensor, bias: Tensor, inv_temperature: Tensor, gates: Tensor, *, window: int, shift: int
) -> Tensor:
    """The kernel as a torch op, for arguments that ``window_attention`` has checked."""
    out = _empty_output(qkv)
    if out.numel() == 0:
        return out
    batch, h, w, channels = out.shape
    heads, octaves = gates.shape
    config = window_attention_config(window, qkv.dtype, *gpu_of(qkv.device))
    grid = window_attention_grid(batch, h, w, heads, window, config.block_m)
    with device_of(qkv):
        wrap_triton(_window_attention_fwd_kernel)[(grid,)](
            qkv,
            bias.contiguous(),
            inv_temperature.contiguous(),
            gates.contiguous(),
            heads,
            h,
            w,
            out,
            **window_attention_constants(window, shift, channels // heads, octaves, config),
            num_warps=config.num_warps,
        )
    return out


# Otherwise the body of the op would be its fake, and tracing would run the interpreted kernel.
@window_attention_op.register_fake
def _(
    qkv: Tensor, bias: Tensor, inv_temperature: Tensor, gates: Tensor, *, window: int, shift: int
) -> Tensor:
    return _empty_output(qkv)


if not INTERPRETED:
    window_attention_op.register_kernel("cpu", window_attention_reference)


differentiate_as(window_attention_op, window_attention_reference)
