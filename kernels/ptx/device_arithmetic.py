"""Emulate the float32 arithmetic of tensor cores, to derive error budgets.

Kernels replace each float32 product by three TF32 products ("tf32x3"). A reference with this
arithmetic gives the error of a correct kernel relative to the float64 oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

TF32_DROPPED_BITS = 13
"""Dropped bits of the significand: TF32 has 10 bits, float32 23."""
TERMS = 4
"""Products that a tensor core adds before rounding (Fasi et al. 2021, TF32 on an A100)."""
EXP_ERROR = 2.0**-22
"""Largest relative error of ``ex2.approx.ftz.f32`` (PTX ISA)."""


def tf32(x: Tensor) -> Tensor:
    """Round like ``cvt.rna.tf32.f32``: to nearest, ties away from zero."""
    bits = x.view(torch.int32)
    half = 1 << (TF32_DROPPED_BITS - 1)
    return ((bits + half) & -(1 << TF32_DROPPED_BITS)).view(torch.float32)


def truncated(x: Tensor) -> Tensor:
    """Round float64 to float32 towards zero, like sums of a tensor core."""
    nearest = x.float()
    over = nearest.double().abs() > x.abs()
    return torch.where(over, torch.nextafter(nearest, torch.zeros_like(nearest)), nearest)


def accumulate(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Compute ``total + a @ b`` of TF32 values, a few terms at a time."""
    for terms in zip(a.split(TERMS, -1), b.split(TERMS, -2), strict=True):
        total = truncated(total.double() + terms[0].double() @ terms[1].double())
    return total


def tf32x3(a: Tensor, b: Tensor) -> Tensor:
    """Compute [..., M, K] @ [..., K, N] as three TF32 products, smallest first."""
    a_big, b_big = tf32(a), tf32(b)
    # The hardware drops excess bits of the small part.
    keep = -(1 << TF32_DROPPED_BITS)
    a_small, b_small = (
        ((x - big).view(torch.int32) & keep).view(torch.float32)
        for x, big in ((a, a_big), (b, b_big))
    )
    total = torch.zeros((*a.shape[:-1], b.shape[-1]), dtype=torch.float32)
    for left, right in ((a_small, b_big), (a_big, b_small), (a_big, b_big)):
        total = accumulate(total, left, right)
    return total


class DeviceArithmetic(TorchFunctionMode):
    """Inside this context, float32 products and exponentials round as on a GPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float32:
            if func in (Tensor.matmul, Tensor.__matmul__, torch.matmul):
                return tf32x3(*args)
            if func is F.linear:
                return linear(*args, **kwargs)
            if func in (F.conv2d, torch.conv2d) and args[1].shape[1] > 1:
                return convolution(*args, **kwargs)
            if func in (Tensor.exp, torch.exp):
                # The largest error, with alternating sign.
                exact = args[0].double().exp()
                signs = torch.ones_like(exact)
                signs.view(-1)[::2] = -1
                return (exact * (1 + signs * EXP_ERROR)).float()
        return func(*args, **kwargs)


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0
) -> Tensor:
    """Compute ``F.conv2d`` as a product."""
    patches = F.unfold(x, weight.shape[-2:], stride=stride, padding=padding)
    out = tf32x3(weight.flatten(1).expand(len(x), -1, -1).contiguous(), patches)
    height = (x.shape[2] + 2 * padding - weight.shape[2]) // stride + 1
    out = out.unflatten(-1, (height, -1))
    return out if bias is None else out + bias[:, None, None]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``F.linear`` as a product."""
    out = tf32x3(x, weight.t().contiguous())
    return out if bias is None else out + bias


def arithmetic_of(device: str) -> AbstractContextManager[object]:
    """Return the context for the reference of a kernel on ``device``."""
    return nullcontext() if device == "cpu" else DeviceArithmetic()
