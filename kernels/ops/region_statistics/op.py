"""Public function of the statistics of regions.

The mathematics is in ``reference.py``, the limits in ``spec.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import Impl, device_obstacle, require, use_triton
from clinreadnet.kernels.ops.region_statistics.reference import region_statistics_reference
from clinreadnet.kernels.ops.region_statistics.spec import LIMITS


def region_statistics_obstacle(x: Tensor, shift: Tensor, scale: Tensor) -> str | None:
    """Return why the kernel does not support these arguments, or None."""
    if reason := LIMITS.obstacle_of("x", x, channels=x.shape[-1]):
        return reason
    if shift.dtype != torch.float32 or scale.dtype != torch.float32:
        return f"needs shift and scale in float32, not {shift.dtype} and {scale.dtype}"
    if not x.is_contiguous():
        return f"needs a contiguous x, not strides {list(x.stride())}"
    return device_obstacle(x, shift, scale)


def region_statistics(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    *,
    region_h: int,
    region_w: int,
    log: bool,
    impl: Impl = "auto",
) -> Tensor:
    """Compute mean and spread of each channel in each region, shifted and scaled.

    Args:
        x: [B, H, W, C].
        shift: [2C], subtracted from means and spreads, in this order.
        scale: [2C], factor of the differences.
        region_h: height of a region; it divides H.
        region_w: width of a region; it divides W.
        log: whether the spread is the logarithm of the deviation, or the deviation.
        impl: "auto" (Triton on CUDA tensors within its limits, else the reference), "triton" or
            "reference"; an explicit choice never falls back. Triton takes a contiguous ``x`` in
            float32, float16 or bfloat16, ``shift`` and ``scale`` in float32, and a multiple of 16
            as C.

    Returns:
        [B, H / region_h, W / region_w, 2C], float32 or wider.

    Raises:
        ValueError: shapes are invalid, or "triton" outside its limits.
    """
    require(x.ndim == 4, f"region_statistics: x {list(x.shape)} is not [B, H, W, C]")
    _, h, w, c = x.shape
    require(
        region_h > 0 and region_w > 0 and h % region_h == 0 and w % region_w == 0,
        f"region_statistics: regions of {region_h} x {region_w} do not divide {h} x {w}",
    )
    given = [list(shift.shape), list(scale.shape)]
    require(
        given == [[2 * c], [2 * c]],
        f"region_statistics: shift and scale {given} are not [{2 * c}]",
    )
    tensors = x, shift, scale
    where: dict[str, Any] = {"region_h": region_h, "region_w": region_w, "log": log}
    if use_triton("region_statistics", impl, x, lambda: region_statistics_obstacle(*tensors)):
        from clinreadnet.kernels.ops.region_statistics.kernel import region_statistics_op

        out: Tensor = region_statistics_op(*tensors, **where)
        return out
    return region_statistics_reference(*tensors, **where)
