"""Public function of the Sobel stem.

The mathematics is in ``reference.py``, the limits in ``spec.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import Impl, device_obstacle, require, use_triton
from clinreadnet.kernels.ops.sobel_stem.reference import sobel_stem_reference
from clinreadnet.kernels.ops.sobel_stem.spec import LIMITS


def sobel_stem_obstacle(
    x: Tensor, weight: Tensor, bias: Tensor, *, encodes: bool = False
) -> str | None:
    """Return why the kernel does not support these arguments, or None."""
    if reason := LIMITS.obstacle_of("weight", weight, channels=weight.shape[0]):
        return reason
    # Bfloat16 would round Hounsfield units to steps of 4 or 8.
    if encodes and x.dtype not in (torch.float16, torch.float32):
        return f"needs x in float32 or float16 to encode it, not {x.dtype}"
    if not encodes and x.dtype not in (weight.dtype, torch.float32):
        return f"needs x in float32 or the dtype of weight, {weight.dtype}, not {x.dtype}"
    if bias.dtype != weight.dtype:
        return f"needs bias in the dtype of weight, {weight.dtype}, not {bias.dtype}"
    if not x.is_contiguous():
        return f"needs a contiguous x, not strides {list(x.stride())}"
    if x.shape[2] * x.shape[3] >= 2**31:
        return f"needs fewer than 2**31 pixels in a slice, not {x.shape[2]} * {x.shape[3]}"
    return device_obstacle(x, weight, bias)


def sobel_stem(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    lowest: float | None = None,
    span: float | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Compute Sobel edges, a 3x3 convolution of stride 2, and GELU.

    Args:
        x: [B, 1, H, W], encoded slices in 0...1, or slices to encode as clip((x - lowest) / span,
            0, 1). Triton takes float32, and the dtype of ``weight`` or, to encode, float16.
        weight: [C0, 4, 3, 3] over the channels (x, gx, gy, magnitude).
        bias: [C0], dtype of ``weight``.
        lowest: value of x that is encoded as 0; None if x is encoded.
        span: difference of the values that are encoded as 1 and 0; None if x is encoded.
        impl: "auto" (Triton on CUDA tensors within its limits, else the reference), "triton" or
            "reference"; an explicit choice never falls back. Triton takes float32, float16 and
            bfloat16, a contiguous ``x`` and at most 64 output channels. Its float32 products
            follow ``torch.set_float32_matmul_precision``: TF32 unless "highest".

    Returns:
        [B, C0, ceil(H / 2), ceil(W / 2)], dtype of ``weight``; channels last from Triton.

    Raises:
        ValueError: shapes are invalid, or "triton" outside its limits.
    """
    require(x.ndim == 4 and x.shape[1] == 1, f"sobel_stem: x {list(x.shape)} is not [B, 1, H, W]")
    c0 = weight.shape[0]
    require(
        tuple(weight.shape) == (c0, 4, 3, 3) and tuple(bias.shape) == (c0,),
        f"sobel_stem: weight {list(weight.shape)}, bias {list(bias.shape)} are not "
        "[C0, 4, 3, 3], [C0]",
    )
    require(
        (lowest is None) == (span is None) and (span is None or span > 0),
        f"sobel_stem: lowest={lowest}, span={span} are not given together, or span is not positive",
    )
    encodes = span is not None
    if use_triton(
        "sobel_stem", impl, x, lambda: sobel_stem_obstacle(x, weight, bias, encodes=encodes)
    ):
        from clinreadnet.kernels.ops.sobel_stem.kernel import sobel_stem_op

        out: Tensor = sobel_stem_op(x, weight, bias, lowest=lowest, span=span)
        return out
    return sobel_stem_reference(x, weight, bias, lowest=lowest, span=span)
