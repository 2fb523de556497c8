"""The MLP half of a block in one launch. x [..., C] -> out [..., C].

out = x + fc2(GELU(fc1(LayerNorm(x))))

A program owns BLOCK_M tokens: it reads them once and writes them once. It computes the hidden layer
in chunks of BLOCK_HIDDEN channels, and each chunk adds its share of the output in registers, so
the hidden layer never reaches memory. Weights come from the cache that all programs share. Products
are in the dtype of x, accumulated in float32; LayerNorm, GELU and the two last sums are float32.
Rounded to the dtype of x: the normalised tokens, the hidden layer after GELU, the output.
GELU is approximate, with the errors that `clinreadnet.kernels.ops.gelu.kernel` states.
Limits: 48 or 96 channels, float32/16/bfloat16.
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
from clinreadnet.kernels.ops.gelu.kernel import gelu
from clinreadnet.kernels.ops.layer_norm.kernel import layer_norm
from clinreadnet.kernels.ops.mlp.reference import mlp_reference


@dataclass(frozen=True)
class MlpConfig:
    """Launch configuration of the kernel."""

    block_m: int
    """Tokens of a program; a power of two, 16 at least."""
    block_hidden: int
    """Hidden channels of a chunk; a power of two, 16 at least."""
    num_warps: int
    stages: int
    """Chunks whose weights are on the chip at once: above 1, the next ones load meanwhile."""
    precision: str = "tf32x3"
    """Of float32 products where full precision is asked for: "tf32x3" or "ieee"."""


@triton.jit
def _held(ptrs, held, EVEN: tl.constexpr):
    """Load hidden channels, zero past the last; EVEN: there are none past it."""
    if EVEN:
        return tl.load(ptrs)
    else:
        return tl.load(ptrs, mask=held, other=0.0)


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
    BLOCK_M: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    EVEN: tl.constexpr = HIDDEN % BLOCK_HIDDEN == 0
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    token = tl.minimum(m, tokens - 1)[:, None] * CHANNELS  # rows past the last are not stored
    # The channels in two parts, as in layer_norm.
    PART: tl.constexpr = CHANNELS // 3
    a, b = tl.arange(0, 2 * PART), 2 * PART + tl.arange(0, PART)
    x_a, x_b = tl.load(x_ptr + token + a[None, :]), tl.load(x_ptr + token + b[None, :])
    y_a, y_b = layer_norm(x_a, x_b, norm_weight_ptr, norm_bias_ptr, EPS)

    acc_a = tl.load(fc2_bias_ptr + a).to(tl.float32)[None, :] + x_a
    acc_b = tl.load(fc2_bias_ptr + b).to(tl.float32)[None, :] + x_b
    for start in tl.range(0, HIDDEN, BLOCK_HIDDEN, num_stages=STAGES):
        h = start + tl.arange(0, BLOCK_HIDDEN)
        held = h < HIDDEN
        w_ptrs = fc1_weight_ptr + h[None, :] * CHANNELS  # [1, BLOCK_HIDDEN]
        w_a = _held(w_ptrs + a[:, None], held[None, :], EVEN)
        w_b = _held(w_ptrs + b[:, None], held[None, :], EVEN)
        hidden = tl.dot(y_a, w_a, input_precision=PRECISION)
        hidden = tl.dot(y_b, w_b, hidden, input_precision=PRECISION)
        hidden += _held(fc1_bias_ptr + h, held, EVEN)[None, :]
        hidden = gelu(hidden, x_a.dtype == tl.float32).to(x_a.dtype)
        w_ptrs = fc2_weight_ptr + h[:, None]  # [BLOCK_HIDDEN, 1]
        w_a = _held(w_ptrs + a[None, :] * HIDDEN, held[:, None], EVEN)
        w_b = _held(w_ptrs + b[None, :] * HIDDEN, held[:, None], EVEN)
        acc_a = tl.dot(hidden, w_a, acc_a, input_precision=PRECISION)
        acc_b = tl.dot(hidden, w_b, acc_b, input_precision=PRECISION)

    mask = (m < tokens)[:, None]
    tl.store(out_ptr + token + a[None, :], acc_a.to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(out_ptr + token + b[None, :], acc_b.to(out_ptr.dtype.element_ty), mask=mask)


def mlp_constants(channels: int, hidden: int, eps: float, config: MlpConfig) -> dict[str, Any]:
    """Compile-time arguments of the kernel."""
    return {
        "CHANNELS": channels,
        "HIDDEN": hidden,
        "EPS": eps,
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
    """The kernel as a torch op, for arguments that ``mlp`` has checked."""
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


# Otherwise the body of the op would be its fake, and tracing would run the interpreted kernel.
@mlp_op.register_fake
def _(x: Tensor, *parameters: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape)


if not INTERPRETED:
    mlp_op.register_kernel("cpu", mlp_reference)


differentiate_as(mlp_op, mlp_reference)
