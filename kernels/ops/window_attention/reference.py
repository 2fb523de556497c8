"""Reference of windowed multi-temperature attention in plain PyTorch.

S = q k^T / sqrt(d) + bias          within one (shifted) window
P = sum_t g_t softmax(2^t beta S)   T sharpness levels ("octaves") per head
out = P v
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_stacking = False


@contextmanager
def stacked_octaves() -> Iterator[None]:
    """Let exporters trace unshifted windows with `attend_stacked`."""
    global _stacking
    before, _stacking = _stacking, True
    try:
        yield
    finally:
        _stacking = before


def cyclic_shift(x: Tensor, shift: int) -> Tensor:
    """Roll [B, H, W, C] by ``-shift`` rows and columns.

    It uses split and concatenation, because engines convert slices to many small integer layers.
    """
    for dim in (1, 2):
        head, tail = x.split([shift % x.shape[dim], x.shape[dim] - shift % x.shape[dim]], dim)
        x = torch.cat([tail, head], dim)
    return x


def windows_of(x: Tensor, window: int) -> Tensor:
    """Partition [B, H, W, C] into [B * H/window * W/window, window**2, C]."""
    _, h, w, c = x.shape
    x = x.reshape(-1, h // window, window, w // window, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def shifted_region_mask(h: int, w: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Return the mask of token pairs in different regions of the cyclically shifted image.

    Returns:
        [H/window * W/window, window**2, window**2] bool, True where attention is forbidden.
    """

    def region(length: int) -> Tensor:
        position = torch.arange(length, device=device)
        return (position >= length - window).int() + (position >= length - shift).int()

    regions = 3 * region(h)[:, None] + region(w)[None, :]  # [H, W], 0 ... 8
    regions = windows_of(regions[None, :, :, None], window)  # [nW, N, 1]
    return regions != regions.transpose(1, 2)


def mix_octaves(scores: Tensor, gates: Tensor) -> Tensor:
    """Return the gated sum of the softmax at every octave.

    Args:
        scores: [B, nW, heads, N, N], times the base inverse temperature.
        gates: [1, 1, heads, 1, T].

    Returns:
        [B, nW, heads, N, N], dtype of ``scores``; rows sum to 1.
    """
    # softmax(2z) is softmax(z) squared and normalised, so one softmax is enough for all octaves.
    power = scores.softmax(dim=-1)
    weights = power * gates[..., :1]
    power = 8 * power  # avoids underflow of uniform weights in float16
    for t in range(1, gates.shape[-1]):
        power = power * power
        weights = weights + power * (gates[..., t : t + 1] / power.sum(dim=-1, keepdim=True))
    return weights


def attend(scores: Tensor, v: Tensor, gates: Tensor) -> Tensor:
    """Multiply the mixed octaves with v [B, nW, heads, N, d], in the dtype of v."""
    return mix_octaves(scores, gates).to(v.dtype) @ v


def attend_stacked(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gates: Tensor) -> Tensor:
    """Attend with the octaves as further queries, in the form that TensorRT fuses.

    MatMul, Add, Softmax and MatMul of rank 4 become one kernel of TensorRT-RTX 1.7. The same of
    rank 5 do not.

    Args:
        q: [B, heads, N, d], scaled by the base inverse temperature.
        k: [B, heads, N, d].
        v: [B, heads, N, d].
        bias: [1, heads, N, N], times the base inverse temperature.
        gates: [1, heads, 1, T], dtype of ``bias``.

    Returns:
        [B, heads, N, d], dtype of ``v``.
    """
    powers = [2**t for t in range(gates.shape[-1])]
    queries = torch.cat([power * q for power in powers], dim=2)  # [B, heads, T N, d]
    biases = torch.cat([power * bias for power in powers], dim=2)
    scores = (queries @ k.transpose(-1, -2)).to(bias.dtype) + biases
    out = (scores.softmax(dim=-1).to(v.dtype) @ v).to(bias.dtype)
    octaves = out.split(q.shape[2], dim=2)
    mixed = gates[..., :1] * octaves[0]
    for t in range(1, len(powers)):
        mixed = mixed + gates[..., t : t + 1] * octaves[t]
    return mixed.to(v.dtype)


def window_attention_reference(
    qkv: Tensor,
    bias: Tensor,
    inv_temperature: Tensor,
    gates: Tensor,
    *,
    window: int,
    shift: int = 0,
) -> Tensor:
    """Attend within (shifted) windows at several temperatures at once.

    Products are in the dtype of ``qkv``; scores and softmax are float32 or wider.

    Args:
        qkv: [B, H, W, 3C], channels laid out (q | k | v, head, head_dim).
        bias: [heads, N, N], N = window ** 2, added before the temperature.
        inv_temperature: [heads], base inverse temperature beta > 0.
        gates: [heads, T], weight of each octave; rows sum to 1.
        window: side of a window in tokens; divides H and W.
        shift: cyclic shift in tokens, 0 <= shift < window.

    Returns:
        [B, H, W, C], dtype of ``qkv``.
    """
    _, h, w, c3 = qkv.shape
    heads, octaves = gates.shape
    n, d = window * window, c3 // (3 * heads)
    rows, columns = h // window, w // window
    wide = torch.promote_types(qkv.dtype, torch.float32)

    if shift:
        qkv = cyclic_shift(qkv, shift)
    qkv = qkv.reshape(-1, rows, window, columns, window, 3 * heads, d)
    qkv = qkv.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, rows * columns, 3 * heads, n, d)
    q, k, v = qkv.split(heads, dim=2)  # [B, nW, heads, N, d] each

    # Constants have the rank of the scores, [B, nW, heads, N, N], so that engines need no reshape.
    beta = inv_temperature.to(wide).reshape(1, 1, heads, 1, 1)
    bias = bias.to(wide)[None, None]
    gates = gates.to(wide).reshape(1, 1, heads, 1, octaves)

    # beta is applied to q and the bias, which are smaller than the scores.
    q = q * (beta * d**-0.5).to(q.dtype)
    if _stacking and not shift:
        # Flat windows have no rank left for a mask of each window.
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        out = attend_stacked(q, k, v, (beta * bias)[0], gates[0])  # [B * nW, heads, N, d]
    else:
        scores = (q @ k.transpose(-1, -2)).to(wide) + beta * bias
        if shift:
            mask = shifted_region_mask(h, w, window, shift, qkv.device)  # [nW, N, N]
            scores = scores.masked_fill(mask[None, :, None], float("-inf"))
        out = attend(scores, v, gates)  # [B, nW, heads, N, d]

    out = out.reshape(-1, rows, columns, heads, window, window, d)
    out = out.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, h, w, heads * d)
    return cyclic_shift(out, -shift) if shift else out
