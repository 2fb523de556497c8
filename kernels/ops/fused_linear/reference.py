"""A linear layer with what surrounds it in plain PyTorch: what its kernel must match.

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
    """Normalise, multiply and add the bias, exact GELU, add the residual.

    Every step rounds to the dtype of ``x``; LayerNorm is float32 at least.

    Args:
        x: [..., C].
        weight: [N, C].
        bias: [N].
        norm_weight: [C], of a LayerNorm; None for none.
        norm_bias: [C]; None as ``norm_weight``.
        residual: [..., N]; None for none.
        gelu: whether GELU follows the bias.
        eps: of the LayerNorm.

    Returns:
        [..., N], dtype of ``x``.
    """
    if norm_weight is not None and norm_bias is not None:
        x = layer_norm_reference(x, norm_weight, norm_bias, eps)
    out = F.linear(x, weight, bias)
    if gelu:
        out = F.gelu(out)
    return out if residual is None else residual + out
