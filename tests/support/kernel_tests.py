"""Devices, types and the comparison of gradients for the tests of every op's kernel."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

NEEDS_TRITON = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.interpret, id="interpreter"),
    pytest.param("cuda", marks=pytest.mark.gpu, id="gpu"),
]


def by_dtype(*dtypes: torch.dtype) -> list[Any]:
    return [pytest.param(dtype, id=str(dtype).removeprefix("torch.")) for dtype in dtypes]


def skip_wrong_products(device: str, dtype: torch.dtype) -> None:
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter computes wrong bfloat16 products")


def assert_gradients_are_the_references(
    op: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    needed: Collection[int],
    device: str,
    **options: Any,
) -> None:
    """Compare the gradients of the ``needed`` tensors; the others have none."""

    def gradients(impl: str) -> list[Tensor | None]:
        leaves = [
            tensor.detach().to(device).requires_grad_(place in needed)
            for place, tensor in enumerate(tensors)
        ]
        out = op(*leaves, **options, impl=impl)
        weights = torch.linspace(-1, 1, out.numel(), device=device)
        out.backward(weights.reshape(out.shape).to(out.dtype))
        return [leaf.grad for leaf in leaves]

    pairs = zip(gradients("triton"), gradients("reference"), strict=True)
    for place, (ours, theirs) in enumerate(pairs):
        assert (ours is not None) == (theirs is not None) == (place in needed)
        if ours is not None:
            torch.testing.assert_close(ours, theirs)
