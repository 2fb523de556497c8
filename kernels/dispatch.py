"""Choice of the implementation of an op."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from clinreadnet.kernels.launch import gpu_of

Impl = Literal["auto", "triton", "reference"]
"""Implementations to choose from; "auto" is the fastest that supports the arguments."""

TRITON_INSTALLED = importlib.util.find_spec("triton") is not None

# Triton reads the variable when a kernel's module is imported, so it is read once here too.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run in Triton's interpreter, on CPU tensors."""


def require(condition: bool, message: str) -> None:
    """Raise ValueError with ``message`` if ``condition`` is false."""
    if not condition:
        raise ValueError(message)


def device_obstacle(*tensors: Tensor) -> str | None:
    """Return why no kernel can run on the device of ``tensors``, or None."""
    device = tensors[0].device
    if not all(tensor.device == device for tensor in tensors):
        return f"needs all tensors on one device, not on {[str(t.device) for t in tensors]}"
    if not (device.type == "cuda" or INTERPRETED):
        return f"needs CUDA tensors, not {device.type}"
    if not TRITON_INSTALLED:
        return "needs the package triton: pip install triton"
    capability = gpu_of(device)[1]
    if 0 < capability < 75:
        return f"needs compute capability 7.5 or later, not {capability / 10}"
    return None


FUSED_CHANNELS = (48, 96)
"""Channels C that the fused kernels hold on the chip, compiled and tested."""


def fused_obstacle(x: Tensor, parameters: Sequence[Tensor]) -> str | None:
    """Return why no fused kernel supports x [..., C] and ``parameters``, or None."""
    if any(parameter.dtype != x.dtype for parameter in parameters):
        dtypes = sorted({str(parameter.dtype) for parameter in parameters})
        return f"needs weights and biases in the dtype of x, {x.dtype}, not {', '.join(dtypes)}"
    if not x.is_contiguous():
        return f"needs a contiguous x, not strides {list(x.stride())}"
    if x.shape[-1] not in FUSED_CHANNELS:
        return f"needs {' or '.join(map(str, FUSED_CHANNELS))} channels, not {x.shape[-1]}"
    capability = gpu_of(x.device)[1]
    if 0 < capability < 80:
        return f"needs compute capability 8.0 or later, not {capability / 10}"
    return device_obstacle(x, *parameters)


def use_triton(op: str, impl: str, x: Tensor, obstacle: Callable[[], str | None]) -> bool:
    """Return whether to run the kernel of ``op``; an explicit choice never falls back.

    Args:
        op: name for messages.
        impl: requested implementation.
        x: the input whose device decides for "auto".
        obstacle: returns why the kernel cannot run on the arguments, or None.

    Raises:
        ValueError: unknown ``impl``, or "triton" and the kernel cannot run.
    """
    known = get_args(Impl)
    require(impl in known, f"{op}: impl={impl!r}; known: {', '.join(map(repr, known))}")
    if impl == "reference" or (impl == "auto" and not x.is_cuda):
        return False
    reason = obstacle()
    require(impl == "auto" or reason is None, f'{op}: impl="triton" {reason}')
    return reason is None


def differentiate_as(op: Any, reference: Callable[..., Tensor]) -> None:
    """Give ``op`` the gradients of ``reference``, recomputed from its inputs."""

    def save_inputs(
        ctx: Any,
        inputs: tuple[Tensor, ...],
        output: Tensor,
        keyword_only_inputs: dict[str, Any] | None = None,
    ) -> None:
        ctx.save_for_backward(*inputs)
        ctx.constants = keyword_only_inputs or {}

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [
            tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
        ]
        with torch.enable_grad():
            out = reference(*inputs, **ctx.constants)
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        grads = iter(torch.autograd.grad(out, wanted, grad))
        return tuple(next(grads) if tensor.requires_grad else None for tensor in inputs)

    op.register_autograd(backward, setup_context=save_inputs)
