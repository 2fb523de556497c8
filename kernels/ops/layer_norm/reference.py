"""LayerNorm in plain PyTorch, for the network and the references of fused ops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise over the last dimension in float32 or wider.

    Args:
        x: [..., C].
        weight: [C].
        bias: [C].
        eps: added to the variance.

    Returns:
        [..., C], dtype of ``x``.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    y = F.layer_norm(x.to(wide), weight.shape, weight.to(wide), bias.to(wide), eps)
    return y.to(x.dtype)
