"""The MLP half of a block in one launch. x [..., C] -> out [..., C].

out = x + fc2(GELU(fc1(LayerNorm(x))))

A program processes BLOCK_M tokens and reads and writes each once. It computes the hidden layer in
chunks of BLOCK_HIDDEN channels and accumulates the output of each chunk in registers, so the hidden
layer is never in global memory. Weights are read from the L2 cache. Products are in the dtype of x
with float32 accumulation; LayerNorm, GELU and the last two sums are float32. Values that are
rounded to the dtype of x: normalised tokens, hidden layer after GELU, output. In 16 bits GELU is
approximate; `clinreadnet.kernels.ops.gelu.kernel` states its error. Limits: 48 or 96 channels,
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
from clinreadnet.kernels.ops.gelu.kernel import gelu
from clinreadnet.kernels.ops.layer_norm.kernel import layer_norm
from clinreadnet.kernels.ops.mlp.reference import mlp_reference

_SQRT_HALF = tl.constexpr(0.5**0.5)


@dataclass(frozen=True)
class MlpConfig:
    """Launch configuration of the kernel."""

    block_m: int
    """Tokens per program; a power of two, at least 16."""
    block_hidden: int
    """Hidden channels per chunk; a power of two, at least 16."""
    num_warps: int
    stages: int
    """Pipeline stages over the chunks: above 1, weights of the next chunks are prefetched."""
    precision: str = "tf32x3"
    """Float32 products at full precision: "tf32x3" or "ieee"."""


@triton.jit
def _mlp_fwd_kernel(
    x_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    fc1_weight_ptr,
    fc1_bias_ptr,
    fc2_weight_ptr,
    fc2_bias_ptr,
    tokens,
    out_ptr,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.arange(0, BLOCK_C)
    inside = c < CHANNELS
    offset = m[:, None] * CHANNELS + c[None, :]
    mask = (m < tokens)[:, None] & inside[None, :]
    x = tl.load(x_ptr + offset, mask=mask, other=0.0)
    y = layer_norm(x, c, norm_weight_ptr, norm_bias_ptr, CHANNELS, EPS)  # [BLOCK_M, BLOCK_C]

    acc = tl.load(fc2_bias_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :] + x
    for start in tl.range(0, HIDDEN, BLOCK_HIDDEN, num_stages=STAGES):
        h = start + tl.arange(0, BLOCK_HIDDEN)
        held = h < HIDDEN
        w_ptrs = fc1_weight_ptr + h[None, :] * CHANNELS + c[:, None]  # [BLOCK_C, BLOCK_HIDDEN]
        w = tl.load(w_ptrs, mask=inside[:, None] & held[None, :], other=0.0)
        hidden = tl.dot(y, w, input_precision=PRECISION)
        hidden += tl.load(fc1_bias_ptr + h, mask=held, other=0.0)[None, :]
        if x.dtype == tl.float32:  # the polynomial would need too many registers
            hidden = 0.5 * hidden * (1.0 + tl.erf(hidden * _SQRT_HALF))
        else:
            hidden = gelu(hidden, False)
        w_ptrs = fc2_weight_ptr + c[None, :] * HIDDEN + h[:, None]  # [BLOCK_HIDDEN, BLOCK_C]
        w = tl.load(w_ptrs, mask=held[:, None] & inside[None, :], other=0.0)
        acc = tl.dot(hidden.to(x.dtype), w, acc, input_precision=PRECISION)

    tl.store(out_ptr + offset, acc.to(out_ptr.dtype.element_ty), mask=mask)


def mlp_constants(channels: int, hidden: int, eps: float, config: MlpConfig) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel."""
    return {
        "CHANNELS": channels,
        "HIDDEN": hidden,
        "EPS": eps,
        "BLOCK_C": triton.next_power_of_2(channels),
        "BLOCK_M": config.block_m,
        "BLOCK_HIDDEN": config.block_hidden,
        "STAGES": config.stages,
        "PRECISION": config.precision,
    }


def mlp_config(channels: int, dtype: torch.dtype, gpu: str, capability: int) -> MlpConfig:
    """Return the launch configuration for a number of channels and the dtype of x on a GPU."""
    keys = str(dtype).removeprefix("torch."), str(channels)
    return MlpConfig(**launch_config(gpu, capability, "mlp", *keys))


def mlp_grid(tokens: Size, block_m: int) -> Size:
    """Return the number of programs of a launch."""
    return ceil_div(tokens, block_m)


@triton_op("clinreadnet::mlp", mutates_args=())
def mlp_op(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    *,
    eps: float,
) -> Tensor:
    """The kernel as a torch op. ``mlp`` checks the arguments."""
    out = x.new_empty(x.shape)
    if out.numel() == 0:
        return out
    hidden, channels = fc1_weight.shape
    tokens = x.numel() // channels
    config = mlp_config(channels, x.dtype, *gpu_of(x.device))
    with device_of(x):
        wrap_triton(_mlp_fwd_kernel)[(mlp_grid(tokens, config.block_m),)](
            x,
            norm_weight.contiguous(),
            norm_bias.contiguous(),
            fc1_weight.contiguous(),
            fc1_bias.contiguous(),
            fc2_weight.contiguous(),
            fc2_bias.contiguous(),
            tokens,
            out,
            **mlp_constants(channels, hidden, eps, config),
            num_warps=config.num_warps,
        )
    return out


register(mlp_op, lambda x, *parameters, eps: x.new_empty(x.shape), mlp_reference)
