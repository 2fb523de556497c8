"""Reference of the fused linear layer in plain PyTorch.

out = [residual +] [GELU]([LayerNorm](x) @ W^T + b), each part in brackets optional
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from clinreadnet.kernels.ops.layer_norm.reference import layer_norm_reference


def fused_linear_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    gelu: bool,
    eps: float,
) -> Tensor:
    """Compute optional LayerNorm, linear layer, optional exact GELU and optional residual.

    Every step rounds to the dtype of ``x``. LayerNorm is float32 or wider.

    Args:
        x: [..., C].
        weight: [N, C].
        bias: [N].
        norm_weight: [C], weight of a LayerNorm; None without LayerNorm.
        norm_bias: [C]; None without LayerNorm.
        residual: [..., N]; None without residual.
        gelu: whether to apply GELU.
        eps: epsilon of the LayerNorm.

    Returns:
        [..., N], dtype of ``x``.
    """
    if norm_weight is not None and norm_bias is not None:
        x = layer_norm_reference(x, norm_weight, norm_bias, eps)
    out = F.linear(x, weight, bias)
    if gelu:
        out = F.gelu(out)
    return out if residual is None else residual + out
