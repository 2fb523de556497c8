"""Windowed multi-temperature attention. qkv [B, H, W, 3C] -> out [B, H, W, C], without copies.

S = q k^T / sqrt(d) + bias          within one (shifted) window
P = sum_t g_t softmax(2^t beta S)   one exponential, squared once per octave
out = P v

A program computes up to BLOCK_M rows of a head in a window. Shift, partition, region mask and
reverse shift are address arithmetic. Scores and powers are float32. In 16 bits each octave has its
own product, whose rows are divided by the sum of the same rounded powers; the inverse is the square
of an approximate inverse root, with a relative error of at most 3e-7. In float32 the octaves are
mixed before a single product. Limits: head_dim 16 or 32, windows 4...16, up to 4 octaves,
float32/16/bfloat16.
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
from clinreadnet.kernels.ops.window_attention.reference import window_attention_reference

_LOG2_E = tl.constexpr(1.4426950408889634)


@dataclass(frozen=True)
class WindowAttentionConfig:
    """Launch configuration of the kernel."""

    block_m: int
    """Rows of scores per program; a power of two, at least 16."""
    num_warps: int
    precision: str = "tf32x3"
    """Float32 products at full precision: "tf32x3" or "ieee"."""
    wide: bool = False
    """Whether 16-bit values are multiplied in float32, once for all octaves. Without tensor cores a
    product for each octave costs more."""


@triton.jit
def window_token(place, window_y, window_x, H, W, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """Return the index in the image of each position of the shifted window."""
    y = window_y * WINDOW + place // WINDOW
    x = window_x * WINDOW + place % WINDOW
    if SHIFT > 0:
        y = tl.where(y >= H - SHIFT, y - (H - SHIFT), y + SHIFT)
        x = tl.where(x >= W - SHIFT, x - (W - SHIFT), x + SHIFT)
    return (y * W + x).to(tl.int64)


@triton.jit
def window_half(place, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """Return flags 1 and 2 if y and x of a position wrap around in the last window.

    It depends only on the position, so the compiler evaluates most of it.
    """
    kept: tl.constexpr = WINDOW - SHIFT
    return (place // WINDOW >= kept).to(tl.int32) + 2 * (place % WINDOW >= kept).to(tl.int32)


@triton.jit
def window_edge(window_y, window_x, H, W, WINDOW: tl.constexpr):
    """Return flags 1 and 2 if the window is the last in y and x, which have several regions."""
    last_y, last_x = window_y == H // WINDOW - 1, window_x == W // WINDOW - 1
    return last_y.to(tl.int32) + 2 * last_x.to(tl.int32)


@triton.jit
def attend(
    q,
    k,
    v,
    bias,
    inv_temperature,
    gates_ptr,
    row_half,
    column_half,
    edge,
    N: tl.constexpr,
    REGIONS: tl.constexpr,
    OCTAVES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend rows q [M, D] of a head to the first N columns of k, v [BLOCK_N, D]; float32."""
    HEAD_DIM: tl.constexpr = q.shape[1]
    BLOCK_N: tl.constexpr = k.shape[0]
    scores = tl.fma(tl.dot(q, tl.trans(k), input_precision=PRECISION), HEAD_DIM**-0.5, bias)
    if BLOCK_N > N:
        inside = tl.arange(0, BLOCK_N) < N
        scores = tl.where(inside[None, :], scores, float("-inf"))
    if REGIONS:  # shifted window
        apart = (row_half[:, None] ^ column_half[None, :]) & edge
        scores = tl.where(apart == 0, scores, float("-inf"))
    # Rounding of a row's ``top`` scales its powers and their sum equally.
    sharpness = inv_temperature * _LOG2_E
    top = tl.max(scores, axis=1) * sharpness
    power = tl.exp2(tl.fma(scores, sharpness, -top[:, None]))  # [M, BLOCK_N]
    if v.dtype == tl.float32:  # one product of mixed weights, because products cost more than sums
        weights = power * (tl.load(gates_ptr) / tl.sum(power, axis=1))[:, None]
        for t in tl.static_range(1, OCTAVES):
            power *= power
            weights += power * (tl.load(gates_ptr + t) / tl.sum(power, axis=1))[:, None]
        return tl.dot(weights, v, input_precision=PRECISION)
    else:
        ones = tl.full((BLOCK_N, 8), 1.0, v.dtype)
        p = power.to(v.dtype)
        root = tl.rsqrt(tl.max(tl.dot(p, ones), axis=1))
        out = tl.dot(p, v) * (tl.load(gates_ptr) * root * root)[:, None]
        for t in tl.static_range(1, OCTAVES):
            power *= power
            p = power.to(v.dtype)
            root = tl.rsqrt(tl.max(tl.dot(p, ones), axis=1))
            out += tl.dot(p, v) * (tl.load(gates_ptr + t) * root * root)[:, None]
        return out


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
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    N: tl.constexpr = WINDOW * WINDOW
    TILES: tl.constexpr = (N + BLOCK_M - 1) // BLOCK_M
    pid = tl.program_id(0).to(tl.uint32)  # unsigned divisions are shorter
    tile = (pid % TILES).to(tl.int32)
    # Heads before windows, so that concurrent programs read the same cache lines of qkv.
    head = (pid // TILES % tl.cast(heads, tl.uint32)).to(tl.int32)
    window = pid // TILES // tl.cast(heads, tl.uint32)
    windows_x = tl.cast(W, tl.uint32) // WINDOW
    window_x, windows = (window % windows_x).to(tl.int32), window // windows_x
    if SHIFT > 0:
        windows_y = tl.cast(H, tl.uint32) // WINDOW
        window_y, first_y = (windows % windows_y).to(tl.int32), windows // windows_y * H
    else:  # a single image
        window_y, first_y = 0, windows * WINDOW
    first = first_y.to(tl.int64) * W

    # Positions past the window repeat the last one, so that every address and row is valid. Their
    # columns have zero weight and their rows are not stored.
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    row, column = tl.minimum(m, N - 1), n
    if BLOCK_N > N:
        column = tl.minimum(n, N - 1)
    row_token = window_token(row, window_y, window_x, H, W, WINDOW, SHIFT)
    column_token = window_token(column, window_y, window_x, H, W, WINDOW, SHIFT)
    channels = heads * HEAD_DIM
    d = tl.arange(0, HEAD_DIM)
    qkv_ptr += first * (3 * channels) + head * HEAD_DIM
    q_ptrs = qkv_ptr + row_token[:, None] * (3 * channels) + d[None, :]
    k_ptrs = qkv_ptr + channels + column_token[:, None] * (3 * channels) + d[None, :]
    q, k, v = tl.load(q_ptrs), tl.load(k_ptrs), tl.load(k_ptrs + channels)
    if WIDE:
        v = v.to(tl.float32)

    bias_ptr += head.to(tl.int64) * N * N
    bias = tl.load(bias_ptr + row[:, None] * N + column[None, :])
    attended = attend(
        q,
        k,
        v,
        bias,
        tl.load(inv_temperature_ptr + head),
        gates_ptr + head * OCTAVES,
        window_half(row, WINDOW, SHIFT),
        window_half(column, WINDOW, SHIFT),
        window_edge(window_y, window_x, H, W, WINDOW),
        N,
        SHIFT > 0,
        OCTAVES,
        PRECISION,
    )
    out_ptr += first * channels + head * HEAD_DIM
    out_ptrs = out_ptr + row_token[:, None] * channels + d[None, :]
    tl.store(out_ptrs, attended.to(out_ptr.dtype.element_ty), mask=(m < N)[:, None])


def window_attention_constants(
    window: int, shift: int, head_dim: int, octaves: int, config: WindowAttentionConfig
) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel."""
    return {
        "WINDOW": window,
        "SHIFT": shift,
        "HEAD_DIM": head_dim,
        "OCTAVES": octaves,
        "BLOCK_M": config.block_m,
        "BLOCK_N": triton.next_power_of_2(window * window),
        "WIDE": config.wide,
        "PRECISION": config.precision,
    }


def window_attention_config(
    window: int, dtype: torch.dtype, gpu: str, capability: int
) -> WindowAttentionConfig:
    """Return the launch configuration for a window side and the dtype of qkv on a GPU."""
    keys = str(dtype).removeprefix("torch."), str(triton.next_power_of_2(window * window))
    return WindowAttentionConfig(**launch_config(gpu, capability, "window_attention", *keys))


def window_attention_grid(
    batch: Size, h: Size, w: Size, heads: Size, window: int, block_m: int
) -> Size:
    """Return the number of programs: tiles of rows of all heads and windows."""
    return batch * (h // window) * (w // window) * heads * ceil_div(window * window, block_m)


def _empty_output(qkv: Tensor, *others: Tensor, **sizes: int) -> Tensor:
    batch, h, w, c3 = qkv.shape
    return qkv.new_empty(batch, h, w, c3 // 3)


@triton_op("clinreadnet::window_attention", mutates_args=())
def window_attention_op(
    qkv: Tensor, bias: Tensor, inv_temperature: Tensor, gates: Tensor, *, window: int, shift: int
) -> Tensor:
    """The kernel as a torch op. ``window_attention`` checks the arguments."""
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


register(window_attention_op, _empty_output, window_attention_reference)
