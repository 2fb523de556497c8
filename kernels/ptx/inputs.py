"""Reproducible random arguments of each op; float64 by default."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Normal = Callable[..., Tensor]
"""Function that draws float64 normal numbers of a shape."""


def _normal(seed: int) -> Normal:
    generator = torch.Generator().manual_seed(seed)
    return partial(torch.randn, generator=generator, dtype=torch.float64)


def stem_inputs(
    batch: int, height: int, width: int, c0: int, x_dtype: torch.dtype, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x [B, 1, H, W], weight [C0, 4, 3, 3] and bias [C0] of ``sobel_stem``."""
    generator = torch.Generator().manual_seed(height * width)
    x = torch.rand(batch, 1, height, width, generator=generator)
    weight = torch.randn(c0, 4, 3, 3, generator=generator) / 4
    return x.to(x_dtype), weight.to(dtype), torch.randn(c0, generator=generator).to(dtype)


def window_attention_inputs(
    batch: int, h: int, w: int, heads: int, d: int, window: int, octaves: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return qkv [B, H, W, 3C], bias, inverse temperatures and gates of ``window_attention``."""
    normal = _normal(0)
    return (
        normal(batch, h, w, 3 * heads * d),
        normal(heads, window**2, window**2),
        normal(heads).exp(),
        normal(heads, octaves).softmax(-1),
    )


def _layers(normal: Normal, c: int, *shapes: tuple[int, int]) -> list[Tensor]:
    """Return weight and bias of LayerNorm and of linear layers [out, in] with outputs near 1."""
    layers = [1 + normal(c) / 4, normal(c) / 4]
    for out, width in shapes:
        layers += [normal(out, width) / math.sqrt(width), normal(out) / 4]
    return layers


def attention_block_inputs(
    batch: int, h: int, w: int, c: int, heads: int, window: int, octaves: int
) -> list[Tensor]:
    """Return x [B, H, W, C] and the parameters of ``attention_block``."""
    x, *scores = window_attention_inputs(batch, h, w, heads, c // heads, window, octaves)
    return [x[..., :c].contiguous(), *_layers(_normal(1), c, (3 * c, c), (c, c)), *scores]


def mlp_inputs(*shape: int, hidden: int) -> list[Tensor]:
    """Return x [*shape], whose last size is C, and the parameters of ``mlp``."""
    normal, c = _normal(2), shape[-1]
    return [normal(*shape), *_layers(normal, c, (hidden, c), (c, hidden))]


def fused_linear_inputs(
    *shape: int, outputs: int, norm: bool = False, residual: bool = False, merge: bool = False
) -> dict[str, Tensor]:
    """Return the arguments of ``fused_linear`` by name; x [*shape], whose last size is C.

    With ``merge``, x is [B, H, W, C / 4], and there is no bias.
    """
    normal = _normal(3)
    x = normal(*shape)
    *sizes, c = shape
    if merge:
        sizes, c = [shape[0], shape[1] // 2, shape[2] // 2], 4 * c
    norm_weight, norm_bias, weight, bias = _layers(normal, c, (outputs, c))
    inputs = {"x": x, "weight": weight} | ({} if merge else {"bias": bias})
    if norm:
        inputs |= {"norm_weight": norm_weight, "norm_bias": norm_bias}
    if residual:
        inputs["residual"] = normal(*sizes, outputs)
    return inputs


def ordinal_head_inputs(
    batch: int, tokens: int, count: int, first: int, features: int
) -> list[Tensor]:
    """Return x [B, N, F + D] and the parameters of ``ordinal_head``; unused values are huge."""
    normal = _normal(4)
    x = 2 * normal(batch, tokens, first + features)
    x[..., count + 1 : first] = 3e4
    layer = normal(count, features) / math.sqrt(features)
    grades = torch.linspace(0, 4, count, dtype=torch.float64)
    return [x, layer, normal(count) / 4, 1 + normal(1)[0].abs() / 4, grades]


def region_statistics_inputs(batch: int, h: int, w: int, c: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return x [B, H, W, C], whose channels differ in mean and deviation, shift and scale [2C]."""
    normal = _normal(5)
    x = normal(batch, h, w, c) * normal(c).exp() + normal(c)
    return x, normal(2 * c), normal(2 * c).exp()
