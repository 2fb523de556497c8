"""LayerNorm of a tile that contains all channels of its tokens, for fused kernels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def layer_norm(x, c, weight_ptr, bias_ptr, CHANNELS: tl.constexpr, EPS: tl.constexpr):
    """Normalise x [M, BLOCK_C] in float32. x and the result are zero for c >= CHANNELS."""
    inside = c < CHANNELS
    wide = x.to(tl.float32)
    mean = tl.sum(wide, axis=1) / CHANNELS
    centred = tl.where(inside[None, :], wide - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / CHANNELS
    weight = tl.load(weight_ptr + c, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt_rn(variance + EPS)
    return (centred * scale[:, None] * weight[None, :] + bias[None, :]).to(x.dtype)
