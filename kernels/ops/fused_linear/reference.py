"""Reference of the fused linear layer in plain PyTorch.

out = [residual +] [GELU]([LayerNorm](x) @ W^T [+ b]), each part in brackets optional
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from clinreadnet.kernels.ops.layer_norm.reference import layer_norm_reference


def merge_patches(x: Tensor) -> Tensor:
    """Join 2x2 neighbouring tokens: [B, H, W, C] -> [B, H / 2, W / 2, 4C], H and W even."""
    _, h, w, c = x.shape
    x = x.reshape(-1, h // 2, 2, w // 2, 2, c).transpose(2, 3)
    return x.reshape(-1, h // 2, w // 2, 4 * c)


def fused_linear_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    gelu: bool,
    eps: float,
    merge: bool = False,
) -> Tensor:
    """Compute optional LayerNorm, linear layer, optional exact GELU and optional residual.

    Every step rounds to the dtype of ``x``. LayerNorm is float32 or wider.

    Args:
        x: [..., C]; with ``merge`` [B, H, W, C / 4], H and W even.
        weight: [N, C].
        bias: [N]; None without bias.
        norm_weight: [C], weight of a LayerNorm; None without LayerNorm.
        norm_bias: [C]; None without LayerNorm.
        residual: [..., N]; None without residual.
        gelu: whether to apply GELU.
        eps: epsilon of the LayerNorm.
        merge: whether to join 2x2 neighbouring tokens first, see `merge_patches`.

    Returns:
        [..., N], with ``merge`` [B, H / 2, W / 2, N]; dtype of ``x``.
    """
    if merge:
        x = merge_patches(x)
    if norm_weight is not None and norm_bias is not None:
        x = layer_norm_reference(x, norm_weight, norm_bias, eps)
    out = F.linear(x, weight, bias)
    if gelu:
        out = F.gelu(out)
    return out if residual is None else residual + out
