"""The ordinal head in one launch. x [B, N, F + D] -> out [B, 1 + G + N].

votes   = softmax(x[:G]) of each token,  w = softmax(x[G]) over the tokens
mixture = sum w votes,  hidden = GELU(sum w x[-D:])
logits  = W hidden + b + gain log(mixture + 1e-4)

A program processes an image and loops over chunks of its tokens, which it reads once: sums are
scaled down when a larger weight is met. All arithmetic is float32. GELU, exponentials and
logarithms are approximate; `clinreadnet.kernels.ops.gelu.kernel` states the error of GELU. Limits:
D = 128, x in float16/bfloat16, parameters in float32.
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
from clinreadnet.kernels.launch import device_of, gpu_of, launch_config
from clinreadnet.kernels.ops.gelu.kernel import gelu
from clinreadnet.kernels.ops.ordinal_head.reference import MIXTURE_EPS, ordinal_head_reference

_EPS = tl.constexpr(MIXTURE_EPS)
_LOG2_E = tl.constexpr(1.4426950408889634)


@dataclass(frozen=True)
class OrdinalHeadConfig:
    """Launch configuration of the kernel."""

    block_n: int
    """Tokens per chunk; a power of two."""
    num_warps: int
    precision: str = "tf32x3"
    """Unused: the kernel has no products of tensor cores."""


@triton.jit
def _ordinal_head_fwd_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    gain_ptr,
    grades_ptr,
    N,
    out_ptr,
    COUNT: tl.constexpr,
    FIRST: tl.constexpr,
    FEATURES: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    x_ptr += image * N * (FIRST + FEATURES)
    out_ptr += image * (1 + COUNT + N)
    g = tl.arange(0, BLOCK_G)
    d = tl.arange(0, FEATURES)
    is_grade = g < COUNT
    grades = tl.load(grades_ptr + g, mask=is_grade, other=0.0)

    # Each place in a chunk keeps its own largest weight, so that the loop reduces over no threads.
    place = tl.arange(0, BLOCK_N)
    largest = tl.full((BLOCK_N,), -1e30, tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    mixture = tl.zeros((BLOCK_N, BLOCK_G), tl.float32)
    hidden = tl.zeros((BLOCK_N, FEATURES), tl.float32)
    for start in range(0, N, BLOCK_N):
        n = start + place
        # Tokens past the last repeat it, without weight.
        token_ptrs = x_ptr + tl.minimum(n, N - 1) * (FIRST + FEATURES)
        logits = tl.load(token_ptrs[:, None] + g[None, :]).to(tl.float32)
        weights = tl.load(token_ptrs + COUNT).to(tl.float32)
        features = tl.load(token_ptrs[:, None] + FIRST + d[None, :]).to(tl.float32)
        logits = tl.where(is_grade[None, :], logits, float("-inf"))
        votes = tl.exp2((logits - tl.max(logits, axis=1)[:, None]) * _LOG2_E)
        votes /= tl.sum(votes, axis=1)[:, None]
        tl.store(out_ptr + 1 + COUNT + n, tl.sum(votes * grades[None, :], axis=1), mask=n < N)
        weights = tl.where(n < N, weights, float("-inf"))
        before, largest = largest, tl.maximum(largest, weights)
        kept = tl.exp2((before - largest) * _LOG2_E)
        weights = tl.exp2((weights - largest) * _LOG2_E)
        total = total * kept + weights
        mixture = mixture * kept[:, None] + weights[:, None] * votes
        hidden = hidden * kept[:, None] + weights[:, None] * features

    # `where` separates the products from the sums. As one instruction, their rounding would differ
    # between the threads that hold the same sum.
    used = place < N
    scale = tl.exp2((largest - tl.max(largest, axis=0)) * _LOG2_E)
    total = tl.sum(tl.where(used, total * scale, 0.0), axis=0)
    mixture = tl.sum(tl.where(used[:, None], mixture * scale[:, None], 0.0), axis=0) / total
    hidden = tl.sum(tl.where(used[:, None], hidden * scale[:, None], 0.0), axis=0) / total
    hidden = gelu(hidden, True)
    row = tl.minimum(g, COUNT - 1)
    layer = tl.load(weight_ptr + row[:, None] * FEATURES + d[None, :])
    logits = tl.sum(layer * hidden[None, :], axis=1) + tl.load(bias_ptr + row)
    logits += tl.load(gain_ptr) * tl.log(mixture + _EPS)
    logits = tl.where(is_grade, logits, float("-inf"))
    probs = tl.exp2((logits - tl.max(logits, axis=0)) * _LOG2_E)
    probs /= tl.sum(probs, axis=0)
    tl.store(out_ptr, tl.sum(tl.where(is_grade, probs * grades, 0.0), axis=0))
    tl.store(out_ptr + 1 + g, probs, mask=is_grade)


def ordinal_head_constants(
    count: int, width: int, features: int, config: OrdinalHeadConfig
) -> dict[str, Any]:
    """Return the compile-time arguments for ``count`` grades and x of ``width`` values."""
    return {
        "COUNT": count,
        "FIRST": width - features,
        "FEATURES": features,
        "BLOCK_G": triton.next_power_of_2(count),
        "BLOCK_N": config.block_n,
    }


def ordinal_head_config(
    features: int, dtype: torch.dtype, gpu: str, capability: int
) -> OrdinalHeadConfig:
    """Return the launch configuration for the number of features and the dtype of x on a GPU."""
    keys = str(dtype).removeprefix("torch."), str(features)
    return OrdinalHeadConfig(**launch_config(gpu, capability, "ordinal_head", *keys))


def _empty_output(x: Tensor, weight: Tensor, *others: Tensor) -> Tensor:
    batch, tokens, _ = x.shape
    return x.new_empty((batch, 1 + weight.shape[0] + tokens), dtype=weight.dtype)


@triton_op("clinreadnet::ordinal_head", mutates_args=())
def ordinal_head_op(
    x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, grades: Tensor
) -> Tensor:
    """The kernel as a torch op. ``ordinal_head`` checks the arguments."""
    out = _empty_output(x, weight)
    if out.numel() == 0:
        return out
    batch, tokens, width = x.shape
    count, features = weight.shape
    config = ordinal_head_config(features, x.dtype, *gpu_of(x.device))
    with device_of(x):
        wrap_triton(_ordinal_head_fwd_kernel)[(batch,)](
            x,
            weight.contiguous(),
            bias.contiguous(),
            gain,
            grades.contiguous(),
            tokens,
            out,
            **ordinal_head_constants(count, width, features, config),
            num_warps=config.num_warps,
        )
    return out


register(ordinal_head_op, _empty_output, ordinal_head_reference)
