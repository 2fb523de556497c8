"""Public function of the fused attention half of a block.

The mathematics is in ``reference.py``, the limits in ``spec.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import (
    Impl,
    device_obstacle,
    parameters_obstacle,
    require,
    require_windows,
    use_triton,
)
from clinreadnet.kernels.ops.attention_block.reference import attention_block_reference
from clinreadnet.kernels.ops.attention_block.spec import LIMITS
from clinreadnet.kernels.spec import LAYER_NORM_EPS


def attention_block_obstacle(
    x: Tensor, parameters: Sequence[Tensor], *, heads: int, window: int, octaves: int
) -> str | None:
    """Return why the kernel does not support these arguments, or None.

    Args:
        x: [B, H, W, C].
        parameters: weights and biases of LayerNorm, qkv and projection.
        heads: attention heads.
        window: side of a window in tokens.
        octaves: sharpness levels T.
    """
    channels = x.shape[3]
    return LIMITS.obstacle_of(
        "x",
        x,
        channels=channels,
        head_dim=channels // heads,
        window=window,
        octaves=octaves,
    ) or parameters_obstacle(x, parameters)


def attention_block(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    projection_weight: Tensor,
    projection_bias: Tensor,
    position_bias: Tensor,
    inv_temperature: Tensor,
    gates: Tensor,
    *,
    window: int,
    shift: int = 0,
    eps: float = LAYER_NORM_EPS,
    impl: Impl = "auto",
) -> Tensor:
    """LayerNorm, qkv, (shifted) window attention at several temperatures, projection, residual.

    Args:
        x: [B, H, W, C]; H and W multiples of ``window``.
        norm_weight: [C].
        norm_bias: [C].
        qkv_weight: [3C, C], rows laid out (q | k | v, head, head_dim).
        qkv_bias: [3C].
        projection_weight: [C, C].
        projection_bias: [C].
        position_bias: [heads, N, N], N = window ** 2, added to q k^T / sqrt(d) before the
            temperature.
        inv_temperature: [heads], base inverse temperature beta > 0.
        gates: [heads, T], weight of each octave; rows sum to 1.
        window: side of a window in tokens.
        shift: cyclic shift in tokens, 0 <= shift < window; tokens then attend only within their
            own region of the shifted window (Liu et al. 2021).
        eps: epsilon of the LayerNorm.
        impl: "auto" (Triton on CUDA tensors within its limits, else the reference), "triton" or
            "reference"; an explicit choice never falls back. Triton takes a contiguous ``x`` of 48
            or 96 channels in float16 or bfloat16, weights and biases of that dtype, the last three
            tensors in float32, head_dim 16 or 32, windows of 4 to 8, at most 3 octaves, and
            compute capability 8.0 or later. In float32 a window does not fit in the registers.

    Returns:
        [B, H, W, C], dtype of ``x``.

    Raises:
        ValueError: shapes are invalid, or "triton" outside its limits.
    """
    require(x.ndim == 4, f"attention_block: x {list(x.shape)} is not [B, H, W, C]")
    _, h, w, c = x.shape
    require_windows("attention_block", h, w, window, shift, gates)
    (heads, octaves), n = gates.shape, window * window
    require(c % heads == 0, f"attention_block: C={c} is not a multiple of {heads} heads")
    layers = norm_weight, norm_bias, qkv_weight, qkv_bias, projection_weight, projection_bias
    scores = position_bias, inv_temperature, gates
    given = [list(tensor.shape) for tensor in (*layers, *scores[:2])]
    wanted = [[c], [c], [3 * c, c], [3 * c], [c, c], [c], [heads, n, n], [heads]]
    require(
        given == wanted,
        f"attention_block: parameters {given} after x {list(x.shape)} are not {wanted}",
    )

    def obstacle() -> str | None:
        if {tensor.dtype for tensor in scores} != {torch.float32}:
            return "needs position_bias, inv_temperature and gates in float32, not " + ", ".join(
                str(tensor.dtype) for tensor in scores
            )
        return attention_block_obstacle(
            x, layers, heads=heads, window=window, octaves=octaves
        ) or device_obstacle(x, *scores)

    if use_triton("attention_block", impl, x, obstacle):
        from clinreadnet.kernels.ops.attention_block.kernel import attention_block_op

        out: Tensor = attention_block_op(x, *layers, *scores, window=window, shift=shift, eps=eps)
        return out
    return attention_block_reference(x, *layers, *scores, window=window, shift=shift, eps=eps)
