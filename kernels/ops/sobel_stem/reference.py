"""Reference of the Sobel stem in plain PyTorch.

x      = clip((x - lowest) / span, 0, 1), if both are given
gx, gy = Sobel(x) / 8 with a replicated border,  m = sqrt(gx^2 + gy^2 + 1e-6)
out    = GELU(conv3x3_stride2([x, gx, gy, m]))
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAGNITUDE_EPS = 1e-6
"""Added inside the square root, whose gradient at zero is infinite."""


def sobel_stem_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    lowest: float | None = None,
    span: float | None = None,
) -> Tensor:
    """Compute edge channels, a 3x3 convolution of stride 2 and exact GELU.

    Edges are computed in float32 or wider, the convolution in the dtype of ``weight``.

    Args:
        x: [B, 1, H, W], encoded slices in 0...1, or slices to encode.
        weight: [C0, 4, 3, 3] over the channels (x, gx, gy, magnitude).
        bias: [C0].
        lowest: value of x that is encoded as 0; None if x is encoded.
        span: difference of the values that are encoded as 1 and 0; None if x is encoded.

    Returns:
        [B, C0, ceil(H / 2), ceil(W / 2)], dtype of ``weight``.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if lowest is not None and span is not None:
        wide = ((wide - lowest) / span).clamp(0, 1)
    # Built from arange, not torch.tensor, so that exporters can fold it into a constant.
    difference = torch.arange(-1, 2, dtype=wide.dtype, device=x.device)  # [-1, 0, 1]
    smooth = 2 - difference.abs()  # [1, 2, 1]
    sobel_x = smooth[:, None] * difference[None, :] / 8
    kernels = torch.stack([sobel_x, sobel_x.T])[:, None]  # [2, 1, 3, 3]
    gradient = F.conv2d(F.pad(wide, (1, 1, 1, 1), mode="replicate"), kernels)  # [B, 2, H, W]
    gx, gy = gradient.split(1, dim=1)
    magnitude = (gx * gx + gy * gy + MAGNITUDE_EPS).sqrt()
    channels = torch.cat([wide, gradient, magnitude], dim=1).to(weight.dtype)  # [B, 4, H, W]
    return F.gelu(F.conv2d(channels, weight, bias, stride=2, padding=1))
