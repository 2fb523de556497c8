"""Window attention with PyTorch's scaled_dot_product_attention, called once per octave.

This is the best implementation in PyTorch without a custom kernel. Tensors that do not depend on
the input (bias, temperature and region mask of each octave) are computed before the timing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clinreadnet.kernels.ops.window_attention.reference import cyclic_shift, shifted_region_mask


class StockAttention:
    """``window_attention`` for fixed weights and a fixed size.

    Args:
        bias, inv_temperature, gates: as in ``window_attention``.
        h, w: size of the image in tokens.
        window, shift: as in ``window_attention``.
        dtype: dtype of qkv.
    """

    def __init__(
        self,
        bias: Tensor,
        inv_temperature: Tensor,
        gates: Tensor,
        *,
        h: int,
        w: int,
        window: int,
        shift: int,
        dtype: torch.dtype,
    ) -> None:
        self.window, self.shift = window, shift
        heads, self.octaves = gates.shape
        n, windows = window * window, (h // window) * (w // window)
        octave = 2.0 ** torch.arange(self.octaves, device=gates.device)[:, None]
        beta = octave * inv_temperature  # [T, heads]
        mask = (beta[:, None, :, None, None] * bias).expand(-1, windows, -1, -1, -1)
        if shift:
            other = shifted_region_mask(h, w, window, shift, gates.device)  # [windows, N, N]
            mask = mask.masked_fill(other[None, :, None], float("-inf"))
        # Batch over windows and heads; slices share the mask.
        self.masks = mask.reshape(self.octaves, windows * heads, 1, n, n).to(dtype)
        self.beta = beta.repeat(1, windows)[..., None, None, None].to(dtype)
        self.gates = gates.t().repeat(1, windows)[..., None, None, None].to(dtype)

    def __call__(self, qkv: Tensor) -> Tensor:
        """[B, H, W, 3C] -> [B, H, W, C]."""
        batch, h, w, c3 = qkv.shape
        window, rows, columns = self.window, h // self.window, w // self.window
        heads = self.masks.shape[1] // (rows * columns)
        d = c3 // (3 * heads)
        if self.shift:
            qkv = cyclic_shift(qkv, self.shift)
        x = qkv.reshape(batch, rows, window, columns, window, 3, heads, d)
        x = x.permute(5, 1, 3, 6, 0, 2, 4, 7).reshape(3, -1, batch, window * window, d)
        q, k, v = x.unbind(0)  # [windows * heads, B, N, d] each
        out = torch.zeros_like(q)
        for t in range(self.octaves):
            mask = self.masks[t].expand(-1, batch, -1, -1)
            attended = F.scaled_dot_product_attention(q * self.beta[t], k, v, attn_mask=mask)
            out = out + self.gates[t] * attended
        out = out.reshape(rows, columns, heads, batch, window, window, d)
        out = out.permute(3, 0, 4, 1, 5, 2, 6).reshape(batch, h, w, heads * d)
        return cyclic_shift(out, -self.shift) if self.shift else out
