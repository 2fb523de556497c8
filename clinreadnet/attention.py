"""(S)W-MTMSA: (shifted) window multi-scale temperature multi-head self-attention.

Every head looks at its window at several sharpness levels at once: the low octaves overview it, the
high ones lock on to detail. Windows, shifts and the relative position bias follow Swin (Liu et al.
2021); the temperatures are this package's reading of ClinReadNet's abstract (docs/model.md).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clinreadnet.kernels import Impl, window_attention


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last dimension, computed in float32 at least; dtype of the input."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        wide = torch.promote_types(x.dtype, torch.float32)
        y = F.layer_norm(
            x.to(wide), self.normalized_shape, self.weight.to(wide), self.bias.to(wide), self.eps
        )
        return y.to(x.dtype)


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens: [N, N] int64, N = window ** 2."""
    position = torch.cartesian_prod(torch.arange(window), torch.arange(window))  # [N, 2]
    offset = position[:, None] - position[None, :] + window - 1  # [N, N, 2], 0 ... 2 window - 2
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]


class MultiTemperatureAttention(nn.Module):
    """qkv projection, windowed multi-temperature attention, output projection.

    Args:
        dim: channels C.
        heads: attention heads; divides C.
        window: side of a window in tokens.
        shift: cyclic shift in tokens (0 or half a window).
        octaves: sharpness levels T; level t multiplies the scores by ``2 ** t * beta``.
        kernels: implementation of ``window_attention``.
    """

    relative_index: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int,
        shift: int,
        octaves: int,
        kernels: Impl = "auto",
    ):
        super().__init__()
        self.window, self.shift, self.kernels = window, shift, kernels
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        # The middle octave starts as ordinary attention, all octaves with the same weight.
        self.log_inv_temperature = nn.Parameter(
            torch.full((heads,), -math.log(2) * (octaves - 1) / 2)
        )
        self.gate_logits = nn.Parameter(torch.zeros(heads, octaves))
        self.register_buffer("relative_index", relative_position_index(window), persistent=False)
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        wide = torch.promote_types(x.dtype, torch.float32)
        attended = window_attention(
            self.qkv(x),
            self.bias_table.to(wide)[self.relative_index].permute(2, 0, 1),
            self.log_inv_temperature.to(wide).exp(),
            self.gate_logits.to(wide).softmax(dim=-1),
            window=self.window,
            shift=self.shift,
            impl=self.kernels,
        )
        return self.projection(attended)
