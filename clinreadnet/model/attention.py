"""(S)W-MTMSA: (shifted) window multi-scale temperature multi-head self-attention.

Every head attends at several sharpness levels (octaves): low octaves average the window, high
octaves select the best matches. Windows, shifts and the relative position bias follow Swin (Liu et
al. 2021). The temperatures are this package's interpretation of ClinReadNet's abstract
(docs/model.md).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from clinreadnet.kernels import (
    Impl,
    attention_block,
    attention_block_obstacle,
    fused_linear,
    fused_linear_obstacle,
    window_attention,
)
from clinreadnet.kernels.ops.layer_norm.reference import layer_norm_reference
from clinreadnet.model.derived import DerivingModule


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last dimension, computed in float32 at least; dtype of the input."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        # PyTorch's kernels compute the statistics of 16-bit tensors in float32. Exporters do not
        # guarantee this, so the exported graph casts explicitly. (In torch 2.11, `is_exporting` is
        # also true in `torch.compile`.)
        compiler = torch.compiler
        exporting = compiler.is_exporting() and not compiler.is_dynamo_compiling()
        if exporting or x.dtype != self.weight.dtype:
            return layer_norm_reference(x, self.weight, self.bias, self.eps)
        y = nn.functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return y.to(x.dtype)  # autocast returns float32


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens: [N, N] int64, N = window ** 2."""
    position = torch.cartesian_prod(torch.arange(window), torch.arange(window))  # [N, 2]
    offset = position[:, None] - position[None, :] + window - 1  # [N, N, 2], 0 ... 2 window - 2
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]


class MultiTemperatureAttention(DerivingModule):
    """qkv projection, windowed multi-temperature attention, output projection.

    Args:
        dim: channels C.
        heads: attention heads; divides C.
        window: side of a window in tokens.
        shift: cyclic shift in tokens (0 or half a window).
        octaves: sharpness levels T; level t multiplies the scores by ``2 ** t * beta``.
        kernels: implementation of ``window_attention``, ``fused`` and ``fused_linears``.
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
        self.heads, self.octaves = heads, octaves
        self.window, self.shift, self.kernels = window, shift, kernels
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        # At initialisation the middle octave is standard attention, and all octaves have equal
        # weight.
        self.log_inv_temperature = nn.Parameter(
            torch.full((heads,), -math.log(2) * (octaves - 1) / 2)
        )
        self.gate_logits = nn.Parameter(torch.zeros(heads, octaves))
        self.register_buffer("relative_index", relative_position_index(window), persistent=False)
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def score_parameters(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Position bias [heads, N, N], inverse temperature [heads] and gates [heads, T].

        The dtype is float32, or ``dtype`` if that is wider. Computed once in evaluation mode.
        """
        wide = torch.promote_types(dtype, torch.float32)

        def compute() -> tuple[Tensor, ...]:
            return (
                self.bias_table.to(wide)[self.relative_index].permute(2, 0, 1),
                self.log_inv_temperature.to(wide).exp(),
                self.gate_logits.to(wide).softmax(dim=-1),
            )

        sources = self.bias_table, self.log_inv_temperature, self.gate_logits
        return self.derived("scores", sources, wide, compute)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        return self.projection(self._attended(self.qkv(x)))

    def fused_obstacle(self, x: Tensor, norm: LayerNorm) -> str | None:
        """Return why the kernel of ``fused`` does not support x [B, H, W, C], or None."""
        return attention_block_obstacle(
            x, self._layers(norm), heads=self.heads, window=self.window, octaves=self.octaves
        )

    def fused(self, x: Tensor, norm: LayerNorm) -> Tensor:
        """Compute x + self(norm(x)) in one launch: [B, H, W, C] -> [B, H, W, C]."""
        return attention_block(
            x,
            *(*self._layers(norm), *self.score_parameters(x.dtype)),
            window=self.window,
            shift=self.shift,
            eps=norm.eps,
            impl=self.kernels,
        )

    def fused_linears_obstacle(self, x: Tensor, norm: LayerNorm) -> str | None:
        """Return why the kernels of ``fused_linears`` do not support x [B, H, W, C], or None."""
        return fused_linear_obstacle(x, self._layers(norm))

    def fused_linears(self, x: Tensor, norm: LayerNorm) -> Tensor:
        """Compute x + self(norm(x)) in three launches: [B, H, W, C] -> [B, H, W, C]."""
        first = *self.qkv.parameters(), *norm.parameters()
        attended = self._attended(fused_linear(x, *first, eps=norm.eps, impl=self.kernels))
        last = self.projection.parameters()
        return fused_linear(attended, *last, residual=x, impl=self.kernels)

    def _attended(self, qkv: Tensor) -> Tensor:
        return window_attention(
            qkv,
            *self.score_parameters(qkv.dtype),
            window=self.window,
            shift=self.shift,
            impl=self.kernels,
        )

    def _layers(self, norm: LayerNorm) -> list[Tensor]:
        return [p for layer in (norm, self.qkv, self.projection) for p in layer.parameters()]
