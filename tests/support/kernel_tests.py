"""Devices, types and the comparison of gradients for the tests of every op's kernel."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
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


def assert_gradients_agree(ours: Sequence[Tensor | None], theirs: Sequence[Tensor | None]) -> None:
    for our, their in zip(ours, theirs, strict=True):
        assert (our is None) == (their is None)
        if our is not None:
            torch.testing.assert_close(our, their)
