"""Reference of the MLP half of a block in plain PyTorch.

out = x + fc2(GELU(fc1(LayerNorm(x))))
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from clinreadnet.kernels.ops.layer_norm.reference import layer_norm_reference


def mlp_reference(
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
    """Compute LayerNorm, linear layer, exact GELU, linear layer and residual.

    Every step rounds to the dtype of ``x``. LayerNorm is float32 or wider.

    Args:
        x: [..., C].
        norm_weight: [C].
        norm_bias: [C].
        fc1_weight: [hidden, C].
        fc1_bias: [hidden].
        fc2_weight: [C, hidden].
        fc2_bias: [C].
        eps: epsilon of the LayerNorm.

    Returns:
        [..., C], dtype of ``x``.
    """
    y = layer_norm_reference(x, norm_weight, norm_bias, eps)
    return x + F.linear(F.gelu(F.linear(y, fc1_weight, fc1_bias)), fc2_weight, fc2_bias)
