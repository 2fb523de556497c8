"""Reference of the attention half of a block in plain PyTorch.

out = x + projection(window_attention(qkv(LayerNorm(x))))
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from clinreadnet.kernels.ops.layer_norm.reference import layer_norm_reference
from clinreadnet.kernels.ops.window_attention.reference import window_attention_reference


def attention_block_reference(
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
    """Normalise, attend within (shifted) windows, project, add to the input.

    Every step rounds to the dtype of ``x``. LayerNorm, scores and softmax are float32 or wider.

    Args:
        x: [B, H, W, C].
        norm_weight: [C].
        norm_bias: [C].
        qkv_weight: [3C, C], rows laid out (q | k | v, head, head_dim).
        qkv_bias: [3C].
        projection_weight: [C, C].
        projection_bias: [C].
        position_bias: [heads, N, N], N = window ** 2, added before the temperature.
        inv_temperature: [heads], base inverse temperature beta > 0.
        gates: [heads, T], weight of each octave; rows sum to 1.
        window: side of a window in tokens; divides H and W.
        shift: cyclic shift in tokens, 0 <= shift < window.
        eps: epsilon of the LayerNorm.

    Returns:
        [B, H, W, C], dtype of ``x``.
    """
    qkv = F.linear(layer_norm_reference(x, norm_weight, norm_bias, eps), qkv_weight, qkv_bias)
    attended = window_attention_reference(
        qkv, position_bias, inv_temperature, gates, window=window, shift=shift
    )
    return x + F.linear(attended, projection_weight, projection_bias)
