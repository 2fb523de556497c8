"""LayerNorm of a tile of tokens that holds all their channels: the first step of fused kernels.

Tiles have powers of two of columns, and 48 and 96 are none. A tile is therefore in two parts, of
two thirds and one third of the channels: nothing is padded.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def layer_norm(a, b, weight_ptr, bias_ptr, EPS: tl.constexpr):
    """Normalise the two parts a [M, A] and b [M, B] of tokens in float32."""
    A: tl.constexpr = a.shape[1]
    B: tl.constexpr = b.shape[1]
    wide_a, wide_b = a.to(tl.float32), b.to(tl.float32)
    mean = (tl.sum(wide_a, axis=1) + tl.sum(wide_b, axis=1)) * (1.0 / (A + B))
    wide_a -= mean[:, None]
    wide_b -= mean[:, None]
    squares = tl.sum(wide_a * wide_a, axis=1) + tl.sum(wide_b * wide_b, axis=1)
    scale = 1.0 / tl.sqrt_rn(squares * (1.0 / (A + B)) + EPS)
    c_a, c_b = tl.arange(0, A), A + tl.arange(0, B)
    weight_a = tl.load(weight_ptr + c_a).to(tl.float32)[None, :]
    weight_b = tl.load(weight_ptr + c_b).to(tl.float32)[None, :]
    bias_a = tl.load(bias_ptr + c_a).to(tl.float32)[None, :]
    bias_b = tl.load(bias_ptr + c_b).to(tl.float32)[None, :]
    wide_a = wide_a * scale[:, None] * weight_a + bias_a
    wide_b = wide_b * scale[:, None] * weight_b + bias_b
    return wide_a.to(a.dtype), wide_b.to(b.dtype)
