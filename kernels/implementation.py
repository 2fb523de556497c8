"""Which implementation of an op runs."""

from __future__ import annotations

import importlib.util
import os
from typing import Literal, get_args

from torch import Tensor

Impl = Literal["auto", "triton", "reference"]
"""Implementations that can be asked for; "auto" is the fastest that suits the arguments."""

TRITON_INSTALLED = importlib.util.find_spec("triton") is not None

# Triton reads the variable when a kernel's module is imported, so it is read once here too.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run in Triton's interpreter, on CPU tensors."""


def require(condition: bool, message: str) -> None:
    """Raise ValueError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def device_obstacle(*tensors: Tensor) -> str | None:
    """Why no Triton kernel can run where ``tensors`` are, or None."""
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        return f"needs all tensors on one device, not on {sorted(map(str, devices))}"
    if not (tensors[0].is_cuda or INTERPRETED):
        return f"needs CUDA tensors, not {tensors[0].device.type}"
    return None if TRITON_INSTALLED else "needs the package triton: pip install triton"


def use_triton(op: str, impl: str, obstacle: str | None) -> bool:
    """Whether to run the kernel of ``op``: an explicit choice never falls back.

    Args:
        op: name for messages.
        impl: what was asked for.
        obstacle: why the kernel cannot take these arguments, or None.

    Raises:
        ValueError: unknown ``impl``, or "triton" in spite of an obstacle.
    """
    require(
        impl in get_args(Impl),
        f"{op}: impl={impl!r}; known: {', '.join(map(repr, get_args(Impl)))}",
    )
    if impl == "triton":
        require(obstacle is None, f'{op}: impl="triton" {obstacle}')
        return True
    return impl == "auto" and obstacle is None
