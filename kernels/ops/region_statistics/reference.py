"""Reference of the statistics of regions in plain PyTorch.

out = ([mean, spread] - shift) scale,  spread = log(variance + 1e-4) / 2 or sqrt(variance + 1e-6)
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG_EPS = 1e-4
"""Added inside the logarithm of the tokens' variance, which is about 1 after LayerNorm."""

ROOT_EPS = 1e-6
"""Added inside the square root, whose gradient at zero is infinite."""


def mean_and_spread(x: Tensor, *, region_h: int, region_w: int, log: bool) -> Tensor:
    """Mean and spread of each channel: [B, H, W, C] -> [B, H / region_h, W / region_w, 2C].

    The spread is the logarithm of the deviation or, without ``log``, the deviation. The dtype is
    float32 or wider.
    """
    _, h, w, c = x.shape
    rows, columns = h // region_h, w // region_w
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    # Five dimensions: OpenVINO takes 9 ms for the mean over two of six, 1 ms over two of five.
    x = x.reshape(-1, region_h, columns, region_w, c)
    if torch.compiler.is_exporting():  # exporters translate var_mean into more operators
        mean = x.mean(dim=(1, 3), keepdim=True)
        difference = x - mean
        mean, variance = mean.squeeze((1, 3)), (difference * difference).mean(dim=(1, 3))
    else:
        variance, mean = torch.var_mean(x, dim=(1, 3), correction=0)
    spread = (variance + LOG_EPS).log() / 2 if log else (variance + ROOT_EPS).sqrt()
    return torch.cat([mean, spread], dim=-1).reshape(-1, rows, columns, 2 * c)


def region_statistics_reference(
    x: Tensor, shift: Tensor, scale: Tensor, *, region_h: int, region_w: int, log: bool
) -> Tensor:
    """Compute mean and spread of each channel in each region, shifted and scaled.

    Args:
        x: [B, H, W, C].
        shift: [2C], subtracted from means and spreads.
        scale: [2C], factor of the differences.
        region_h: height of a region; it divides H.
        region_w: width of a region; it divides W.
        log: whether the spread is the logarithm of the deviation, or the deviation.

    Returns:
        [B, H / region_h, W / region_w, 2C], float32 or wider.
    """
    return (mean_and_spread(x, region_h=region_h, region_w=region_w, log=log) - shift) * scale
