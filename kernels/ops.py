"""The public functions: argument checks, then the implementation asked for."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from clinreadnet.kernels.sobel_stem_reference import sobel_stem_reference
from clinreadnet.kernels.window_attention_reference import window_attention_reference

Impl = Literal["auto", "reference"]
"""Implementations that can be asked for; "auto" is the fastest that suits the arguments."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_impl(op: str, impl: str) -> None:
    _require(impl in ("auto", "reference"), f'{op}: impl={impl!r}; known: "auto", "reference"')


def sobel_stem(x: Tensor, weight: Tensor, bias: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Sobel edges, 3x3 convolution of stride 2, GELU.

    Args:
        x: [B, 1, H, W], encoded slices in 0...1; dtype of ``weight``, or float32.
        weight: [C0, 4, 3, 3] over the channels (x, gx, gy, magnitude).
        bias: [C0], dtype of ``weight``.
        impl: "auto" or "reference".

    Returns:
        [B, C0, ceil(H / 2), ceil(W / 2)], dtype of ``weight``.

    Raises:
        ValueError: shapes outside the above, saying which.
    """
    _require_impl("sobel_stem", impl)
    _require(x.ndim == 4 and x.shape[1] == 1, f"sobel_stem: x {list(x.shape)} is not [B, 1, H, W]")
    c0 = weight.shape[0]
    _require(
        tuple(weight.shape) == (c0, 4, 3, 3) and tuple(bias.shape) == (c0,),
        f"sobel_stem: weight {list(weight.shape)}, bias {list(bias.shape)} are not "
        "[C0, 4, 3, 3], [C0]",
    )
    return sobel_stem_reference(x, weight, bias)


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
        impl: "auto" or "reference".

    Returns:
        [B, H, W, C], dtype of ``qkv``.

    Raises:
        ValueError: shapes outside the above, saying which.
    """
    _require_impl("window_attention", impl)
    _require(qkv.ndim == 4, f"window_attention: qkv {list(qkv.shape)} is not [B, H, W, 3C]")
    _, h, w, c3 = qkv.shape
    _require(
        h % window == 0 and w % window == 0,
        f"window_attention: H={h}, W={w} are not multiples of window={window}",
    )
    _require(0 <= shift < window, f"window_attention: shift={shift} is not in 0...{window - 1}")
    _require(
        gates.ndim == 2 and gates.shape[1] >= 1,
        f"window_attention: gates {list(gates.shape)} is not [heads, T]",
    )
    heads, n = gates.shape[0], window * window
    _require(
        c3 % (3 * heads) == 0, f"window_attention: 3C={c3} is not a multiple of 3 * {heads} heads"
    )
    _require(
        tuple(bias.shape) == (heads, n, n) and tuple(inv_temperature.shape) == (heads,),
        f"window_attention: bias {list(bias.shape)}, inv_temperature "
        f"{list(inv_temperature.shape)} are not [{heads}, {n}, {n}], [{heads}]",
    )
    return window_attention_reference(qkv, bias, inv_temperature, gates, window=window, shift=shift)
