"""Public function of windowed multi-temperature attention.

The mathematics is in ``reference.py``, the limits in ``spec.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import Impl, device_obstacle, require, require_windows, use_triton
from clinreadnet.kernels.ops.window_attention.reference import window_attention_reference
from clinreadnet.kernels.ops.window_attention.spec import LIMITS


def _obstacle(
    qkv: Tensor, bias: Tensor, inv_temperature: Tensor, gates: Tensor, window: int
) -> str | None:
    """Return why the kernel does not support these arguments, or None."""
    heads, octaves = gates.shape
    head_dim = qkv.shape[3] // (3 * heads)
    if reason := LIMITS.obstacle_of("qkv", qkv, head_dim=head_dim, window=window, octaves=octaves):
        return reason
    if {bias.dtype, inv_temperature.dtype, gates.dtype} != {torch.float32}:
        return (
            "needs bias, inv_temperature and gates in float32, not "
            f"{bias.dtype}, {inv_temperature.dtype}, {gates.dtype}"
        )
    if not qkv.is_contiguous():
        return f"needs a contiguous qkv, not strides {list(qkv.stride())}"
    return device_obstacle(qkv, bias, inv_temperature, gates)


def window_attention(
    qkv: Tensor,
    bias: Tensor,
    inv_temperature: Tensor,
    gates: Tensor,
    *,
    window: int,
    shift: int = 0,
    impl: Impl = "auto",
) -> Tensor:
    """Attend within (shifted) windows at several temperatures at once.

    Args:
        qkv: [B, H, W, 3C], channels (q | k | v, head, head_dim); H and W multiples of ``window``.
        bias: [heads, N, N], N = window ** 2, added to q k^T / sqrt(d) before the temperature.
        inv_temperature: [heads], base inverse temperature beta > 0.
        gates: [heads, T], weight of each octave; rows sum to 1.
        window: side of a window in tokens.
        shift: cyclic shift in tokens, 0 <= shift < window; tokens then attend only within their
            own region of the shifted window (Liu et al. 2021).
        impl: "auto" (Triton on CUDA tensors within its limits, else the reference), "triton" or
            "reference"; an explicit choice never falls back. Triton takes a contiguous ``qkv`` in
            float32, float16 or bfloat16, the other tensors in float32 with any strides,
            head_dim 16 or 32, windows of 4 to 16 (to 8 before compute capability 8.0) and at most
            4 octaves. Its float32 products follow ``torch.set_float32_matmul_precision``: TF32
            unless "highest".

    Returns:
        [B, H, W, C], dtype of ``qkv``.

    Raises:
        ValueError: shapes are invalid, or "triton" outside its limits.
    """
    require(qkv.ndim == 4, f"window_attention: qkv {list(qkv.shape)} is not [B, H, W, 3C]")
    _, h, w, c3 = qkv.shape
    require_windows("window_attention", h, w, window, shift, gates)
    heads, n = gates.shape[0], window * window
    require(
        c3 % (3 * heads) == 0, f"window_attention: 3C={c3} is not a multiple of 3 * {heads} heads"
    )
    require(
        tuple(bias.shape) == (heads, n, n) and tuple(inv_temperature.shape) == (heads,),
        f"window_attention: bias {list(bias.shape)}, inv_temperature "
        f"{list(inv_temperature.shape)} are not [{heads}, {n}, {n}], [{heads}]",
    )
    if use_triton(
        "window_attention",
        impl,
        qkv,
        lambda: _obstacle(qkv, bias, inv_temperature, gates, window),
    ):
        from clinreadnet.kernels.ops.window_attention.kernel import window_attention_op

        out: Tensor = window_attention_op(
            qkv, bias, inv_temperature, gates, window=window, shift=shift
        )
        return out
    return window_attention_reference(qkv, bias, inv_temperature, gates, window=window, shift=shift)
