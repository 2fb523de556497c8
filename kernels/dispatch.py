"""Choose the implementation of an op."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from clinreadnet.kernels.launch import gpu_of

Impl = Literal["auto", "triton", "reference"]
"""Implementations of an op. "auto" is the fastest that supports the arguments."""

TRITON_INSTALLED = importlib.util.find_spec("triton") is not None

# Triton reads the variable when a kernel's module is imported, so it is read only once here.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run in Triton's interpreter on CPU tensors."""


_traced = False


@contextmanager
def traced_as_ops() -> Iterator[None]:
    """Let exporters trace ``impl="triton"`` on CPU tensors: each call becomes a single op node."""
    global _traced
    before, _traced = _traced, True
    try:
        yield
    finally:
        _traced = before


def wrap_triton(kernel: Any) -> Any:
    """Return a launcher of ``kernel`` for a ``triton_op``, which is visible to compilers.

    In the interpreter the kernel is returned unchanged, because torch 2.11 cannot wrap it.
    torch.compile finds the kernels of an op by the name of this function.
    """
    return kernel if INTERPRETED else torch.library.wrap_triton(kernel)


def require(condition: bool, message: str) -> None:
    """Raise ValueError with ``message`` if ``condition`` is false."""
    if not condition:
        raise ValueError(message)


def require_windows(op: str, h: int, w: int, window: int, shift: int, gates: Tensor) -> None:
    """Raise ValueError if a map [h, w] has no such windows, or gates are not [heads, T]."""
    whole = h % window == 0 and w % window == 0
    require(whole, f"{op}: H={h}, W={w} are not multiples of window={window}")
    require(0 <= shift < window, f"{op}: shift={shift} is not in 0...{window - 1}")
    shaped = gates.ndim == 2 and gates.shape[1] >= 1
    require(shaped, f"{op}: gates {list(gates.shape)} is not [heads, T]")


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Supported types of kernels, by name."""


def listed(words: Sequence[Any]) -> str:
    """Return "a, b or c"."""
    *most, last = map(str, words)
    return f"{', '.join(most)} or {last}" if most else last


@dataclass(frozen=True)
class Limits:
    """Limits of a kernel. It is compiled and tested only within them.

    Attributes:
        dtypes: supported types of the tensor that determines the type of the products.
        capability: least compute capability, 80 for 8.0.
        channels: supported numbers of channels; empty for any.
        multiple_of: divisor of the number of channels.
        most_channels: largest number of channels; None for no limit.
        head_dims: supported channels per head; empty for any.
        windows: supported sides of a window in tokens; empty for any.
        most_octaves: largest number of sharpness levels; None for no limit.
        window_before_80: largest window before compute capability 8.0, if smaller.
    """

    dtypes: tuple[str, ...]
    capability: int = 75
    channels: tuple[int, ...] = ()
    multiple_of: int = 1
    most_channels: int | None = None
    head_dims: tuple[int, ...] = ()
    windows: range = range(0)
    most_octaves: int | None = None
    window_before_80: int | None = None

    def obstacle(
        self,
        tensor: str,
        dtype: torch.dtype,
        capability: int,
        *,
        channels: int = 0,
        head_dim: int = 0,
        window: int = 0,
        octaves: int = 0,
    ) -> str | None:
        """Return why the kernel does not support arguments of this size, or None.

        Args:
            tensor: name of the tensor that determines the type, for messages.
            dtype: type of that tensor.
            capability: compute capability of the GPU; 0 if unknown.
            channels: channels of the tokens or of the output.
            head_dim: channels per head.
            window: side of a window in tokens.
            octaves: sharpness levels.
        """
        if dtype not in [DTYPES[name] for name in self.dtypes]:
            return f"needs {tensor} in {listed(self.dtypes)}, not {dtype}"
        if self.channels and channels not in self.channels:
            return f"needs {listed(self.channels)} channels, not {channels}"
        if channels % self.multiple_of:
            return f"needs a multiple of {self.multiple_of} as channels, not {channels}"
        if self.most_channels is not None and channels > self.most_channels:
            return f"needs at most {self.most_channels} output channels, not {channels}"
        if self.head_dims and head_dim not in self.head_dims:
            return f"needs a head_dim in {self.head_dims}, not {head_dim}"
        if len(self.windows) and window not in self.windows:
            return f"needs a window in {self.windows[0]}...{self.windows[-1]}, not {window}"
        if self.most_octaves is not None and octaves > self.most_octaves:
            return f"needs at most {self.most_octaves} octaves, not {octaves}"
        if 0 < capability < self.capability:
            return (
                f"needs compute capability {self.capability / 10} or later, not {capability / 10}"
            )
        if 0 < capability < 80 and self.window_before_80 and window > self.window_before_80:
            return (
                f"needs a window of at most {self.window_before_80} before compute capability "
                f"8.0, not {window}"
            )
        return None

    def obstacle_of(self, tensor: str, x: Tensor, **sizes: int) -> str | None:
        """Return why the kernel does not support ``x`` on its device, or None; see `obstacle`."""
        return self.obstacle(tensor, x.dtype, gpu_of(x.device)[1], **sizes)


def device_obstacle(*tensors: Tensor) -> str | None:
    """Return why no kernel can run on the device of ``tensors``, or None."""
    device = tensors[0].device
    if not all(tensor.device == device for tensor in tensors):
        return f"needs all tensors on one device, not on {[str(t.device) for t in tensors]}"
    if not (device.type == "cuda" or INTERPRETED or _traced):
        return f"needs CUDA tensors, not {device.type}"
    if not TRITON_INSTALLED:
        return "needs the package triton: pip install triton"
    return None


def parameters_obstacle(x: Tensor, parameters: Sequence[Tensor]) -> str | None:
    """Return why no fused kernel supports x [..., C] and ``parameters``, or None."""
    if any(parameter.dtype != x.dtype for parameter in parameters):
        dtypes = sorted({str(parameter.dtype) for parameter in parameters})
        return f"needs weights and biases in the dtype of x, {x.dtype}, not {', '.join(dtypes)}"
    if not x.is_contiguous():
        return f"needs a contiguous x, not strides {list(x.stride())}"
    return device_obstacle(x, *parameters)


def use_triton(op: str, impl: str, x: Tensor, obstacle: Callable[[], str | None]) -> bool:
    """Return whether to run the kernel of ``op``. An explicit choice never falls back.

    Args:
        op: name of the op for messages.
        impl: requested implementation.
        x: input whose device decides for "auto".
        obstacle: function that returns why the kernel does not support the arguments, or None.

    Raises:
        ValueError: ``impl`` is unknown, or "triton" and the kernel cannot run.
    """
    known = get_args(Impl)
    require(impl in known, f"{op}: impl={impl!r}; known: {', '.join(map(repr, known))}")
    if impl == "reference" or (impl == "auto" and not x.is_cuda):
        return False
    reason = obstacle()
    require(impl == "auto" or reason is None, f'{op}: impl="triton" {reason}')
    return reason is None


def register(
    op: Any,
    fake: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    on_cpu: Callable[..., Tensor] | None = None,
) -> None:
    """Register the fake, the CPU implementation and the autograd of an op.

    Args:
        op: a ``triton_op``. By default its body would be the fake, and tracing would run the kernel
            in the interpreter.
        fake: function that returns an empty output.
        reference: reference of the op. Its gradients are used, recomputed from the inputs.
        on_cpu: implementation for CPU tensors; default the reference.
    """
    op.register_fake(fake)
    if not INTERPRETED:
        op.register_kernel("cpu", on_cpu or reference)
    _differentiate_as(op, reference)


def _differentiate_as(op: Any, reference: Callable[..., Tensor]) -> None:

    def save_inputs(
        ctx: Any,
        inputs: tuple[Tensor | None, ...],
        output: Tensor,
        keyword_only_inputs: dict[str, Any] | None = None,
    ) -> None:
        ctx.save_for_backward(*inputs)
        ctx.constants = keyword_only_inputs or {}

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [
            tensor if tensor is None else tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
        ]
        with torch.enable_grad():
            out = reference(*inputs, **ctx.constants)
        wanted = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
        grads = iter(torch.autograd.grad(out, wanted, grad))
        return tuple(
            None if tensor is None or not tensor.requires_grad else next(grads) for tensor in inputs
        )

    op.register_autograd(backward, setup_context=save_inputs)
