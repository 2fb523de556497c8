"""The attention half of a block in one launch. x [B, H, W, C] -> out [B, H, W, C].

out = x + projection(window_attention(qkv(LayerNorm(x))))

A program processes one (shifted) window: it reads and writes each token once and keeps all
intermediate values on the chip. It loops over the heads: q, k and v of a head, its attention, and
its share of the projection, which is accumulated in registers on top of the residual. Weights are
read from the L2 cache. Products are in the dtype of x with float32 accumulation; LayerNorm, scores,
softmax and the last two sums are float32. Values that are rounded to the dtype of x: normalised
tokens, q, k and v, powers of each octave, attended values, output. Limits: 48 or 96 channels,
head_dim 16 or 32, windows 4...8, up to 3 octaves, float16/bfloat16.
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
from clinreadnet.kernels.grid import Size
from clinreadnet.kernels.launch import device_of, gpu_of, launch_config
from clinreadnet.kernels.ops.attention_block.reference import attention_block_reference
from clinreadnet.kernels.ops.layer_norm.kernel import layer_norm
from clinreadnet.kernels.ops.window_attention.kernel import (
    attend,
    window_edge,
    window_half,
    window_token,
)


@dataclass(frozen=True)
class AttentionBlockConfig:
    """Launch configuration of the kernel."""

    num_warps: int
    stages: int
    """Pipeline stages over the heads: above 1, weights of the next heads are prefetched."""
    precision: str = "tf32x3"
    """Precision of float32 products; unused for half precision."""


@triton.jit
def _attention_block_fwd_kernel(
    x_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    qkv_weight_ptr,
    qkv_bias_ptr,
    projection_weight_ptr,
    projection_bias_ptr,
    position_bias_ptr,
    inv_temperature_ptr,
    gates_ptr,
    H,
    W,
    out_ptr,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    CHANNELS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    OCTAVES: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    N: tl.constexpr = WINDOW * WINDOW
    window = tl.program_id(0)
    windows_x = W // WINDOW
    windows = (H // WINDOW) * windows_x
    image, window = window // windows, window % windows

    # As in window_attention, positions past the window repeat the last one and are not stored.
    n = tl.arange(0, BLOCK_N)
    place = n
    if BLOCK_N > N:
        place = tl.minimum(n, N - 1)
    window_y, window_x = window // windows_x, window % windows_x
    token = window_token(place, window_y, window_x, H, W, WINDOW, SHIFT)
    half = window_half(place, WINDOW, SHIFT)
    c = tl.arange(0, BLOCK_C)
    inside = c < CHANNELS
    offset = image.to(tl.int64) * H * W * CHANNELS + token[:, None] * CHANNELS + c[None, :]
    x = tl.load(x_ptr + offset, mask=inside[None, :], other=0.0)
    y = layer_norm(x, c, norm_weight_ptr, norm_bias_ptr, CHANNELS, EPS)  # [BLOCK_N, BLOCK_C]

    acc = tl.load(projection_bias_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :] + x
    for head in tl.range(0, CHANNELS // HEAD_DIM, num_stages=STAGES):
        d = head * HEAD_DIM + tl.arange(0, HEAD_DIM)
        w_ptrs = qkv_weight_ptr + d[None, :] * CHANNELS + c[:, None]  # [BLOCK_C, HEAD_DIM]
        w_q = tl.load(w_ptrs, mask=inside[:, None], other=0.0)
        w_k = tl.load(w_ptrs + CHANNELS * CHANNELS, mask=inside[:, None], other=0.0)
        w_v = tl.load(w_ptrs + 2 * CHANNELS * CHANNELS, mask=inside[:, None], other=0.0)
        # Biases are loaded after the products to save registers.
        b_ptrs = qkv_bias_ptr + d
        q = tl.dot(y, w_q, input_precision=PRECISION) + tl.load(b_ptrs)[None, :]
        k = tl.dot(y, w_k, input_precision=PRECISION) + tl.load(b_ptrs + CHANNELS)[None, :]
        v = tl.dot(y, w_v, input_precision=PRECISION) + tl.load(b_ptrs + 2 * CHANNELS)[None, :]
        attended = attend(
            q.to(x.dtype),
            k.to(x.dtype),
            v.to(x.dtype),
            tl.load(position_bias_ptr + head * N * N + place[:, None] * N + place[None, :]),
            tl.load(inv_temperature_ptr + head),
            gates_ptr + head * OCTAVES,
            half,
            half,
            window_edge(window_y, window_x, H, W, WINDOW),
            N,
            SHIFT > 0,
            OCTAVES,
            PRECISION,
        )
        w_ptrs = projection_weight_ptr + c[None, :] * CHANNELS + d[:, None]  # [HEAD_DIM, BLOCK_C]
        w = tl.load(w_ptrs, mask=inside[None, :], other=0.0)
        acc = tl.dot(attended.to(x.dtype), w, acc, input_precision=PRECISION)

    mask = (n < N)[:, None] & inside[None, :]
    tl.store(out_ptr + offset, acc.to(out_ptr.dtype.element_ty), mask=mask)


def attention_block_constants(
    channels: int,
    heads: int,
    octaves: int,
    window: int,
    shift: int,
    eps: float,
    config: AttentionBlockConfig,
) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel."""
    return {
        "WINDOW": window,
        "SHIFT": shift,
        "CHANNELS": channels,
        "HEAD_DIM": channels // heads,
        "OCTAVES": octaves,
        "EPS": eps,
        "BLOCK_C": triton.next_power_of_2(channels),
        "BLOCK_N": triton.next_power_of_2(window * window),
        "STAGES": config.stages,
        "PRECISION": config.precision,
    }


def attention_block_config(
    channels: int, dtype: torch.dtype, gpu: str, capability: int
) -> AttentionBlockConfig:
    """Return the launch configuration for a number of channels and the dtype of x on a GPU."""
    keys = str(dtype).removeprefix("torch."), str(channels)
    return AttentionBlockConfig(**launch_config(gpu, capability, "attention_block", *keys))


def attention_block_grid(batch: Size, h: Size, w: Size, window: int) -> Size:
    """Return the number of programs of a launch."""
    return batch * (h // window) * (w // window)


@triton_op("clinreadnet::attention_block", mutates_args=())
def attention_block_op(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    projection_weight: Tensor,
    projection_bias: Tensor,
    position_bias: Tensor,
    inv_temperature: Tensor,
    gates: Tensor,
    *,
    window: int,
    shift: int,
    eps: float,
) -> Tensor:
    """The kernel as a torch op. ``attention_block`` checks the arguments."""
    out = x.new_empty(x.shape)
    if out.numel() == 0:
        return out
    batch, h, w, channels = x.shape
    heads, octaves = gates.shape
    config = attention_block_config(channels, x.dtype, *gpu_of(x.device))
    with device_of(x):
        wrap_triton(_attention_block_fwd_kernel)[(attention_block_grid(batch, h, w, window),)](
            x,
            norm_weight.contiguous(),
            norm_bias.contiguous(),
            qkv_weight.contiguous(),
            qkv_bias.contiguous(),
            projection_weight.contiguous(),
            projection_bias.contiguous(),
            position_bias.contiguous(),
            inv_temperature.contiguous(),
            gates.contiguous(),
            h,
            w,
            out,
            **attention_block_constants(channels, heads, octaves, window, shift, eps, config),
            num_warps=config.num_warps,
        )
    return out


register(
    attention_block_op,
    lambda x, *parameters, **sizes: x.new_empty(x.shape),
    attention_block_reference,
)
