"""What the rest of the package may ask of an op: its limits, shapes, work and candidates.

Each op states an `OpSpec` in its ``spec.py``, and `clinreadnet.kernels.registry.OPS` holds them
all: the compiler's table, the export of kernels, the tuner, the benches and the tests read it. A
spec imports no Triton; what needs the kernel imports it when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import DTYPES, Impl, Limits
from clinreadnet.kernels.grid import Formula, Shape

POINTERS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}
"""Triton's pointers to the types of ``DTYPES``."""

LAYER_NORM_EPS = 1e-5
"""Of every LayerNorm of the network, which is PyTorch's default; compiled into the kernels."""

Config = Mapping[str, Any]
"""One entry of a configuration file: how a kernel is launched."""


@dataclass(frozen=True)
class LayerShape:
    """A layer that an op can run, on square inputs.

    Attributes:
        name: of the layer, or of the stage that it stands for.
        side: of the input, in pixels or in tokens.
        channels: of the output.
        heads: attention heads.
        window: side of a window in tokens.
        shift: cyclic shift in tokens.
        octaves: sharpness levels of the attention.
        hidden: channels inside the MLP.
        linear: which linear layer of a block: "qkv", "projection", "fc1" or "fc2".
    """

    name: str
    side: int
    channels: int
    heads: int = 1
    window: int = 1
    shift: int = 0
    octaves: int = 1
    hidden: int = 0
    linear: str = ""

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.channels // self.heads


@dataclass(frozen=True)
class NetworkShape:
    """The layers of a network that ops can run."""

    stem: LayerShape
    blocks: tuple[LayerShape, ...]


STEM = LayerShape("stem", side=512, channels=24)
"""The stem of the preset `small`."""

STAGES = tuple(
    LayerShape(
        name=f"stage {number + 1}",
        side=128 >> number,
        channels=48 << number,
        heads=3 << number,
        window=8,
        shift=4,
        octaves=3,
        hidden=4 * 48 << number,
    )
    for number in range(4)
)
"""The shifted blocks of the preset `small`, one of each stage."""

FUSED_CHANNELS = (48, 96)
"""Channels C that the fused kernels hold on the chip, compiled and tested."""


@dataclass(frozen=True)
class Work:
    """Floating-point operations, and bytes read and written, of one run at least."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Case:
    """A kernel with everything that decides its machine code."""

    op: str
    capability: int
    """Compute capability as one number, 89 for 8.9."""
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    num_warps: int


def make_case(
    op: str,
    capability: int,
    kernel: Any,
    pointers: Mapping[str, str],
    constants: dict[str, Any],
    num_warps: int,
) -> Case:
    """Return the case of a kernel; arguments that are neither pointers nor constants are sizes."""
    signature = {
        name: "constexpr" if name in constants else pointers.get(name, "i32")
        for name in kernel.arg_names
    }
    return Case(op, capability, kernel, signature, constants, num_warps)


@dataclass(frozen=True)
class KernelSource:
    """A kernel as a network launches it, before the precision and the GPU are chosen.

    Attributes:
        name: in file names.
        shape: what to compile.
        grid: of a case, in terms of sizes.
        shapes: of each tensor, by the name of its pointer without ``_ptr``.
        uses: where the network launches it, with the sizes there.
    """

    name: str
    shape: LayerShape
    grid: Callable[[Case], Formula]
    shapes: Mapping[str, Shape]
    uses: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class TuningEntry:
    """What is tried for one entry of a configuration file.

    Attributes:
        candidates: configurations to try beside the one in use.
        compiled: types and shapes that need most registers, to compile before a launch.
        timed: name, type and shape of each example to time.
    """

    candidates: tuple[Config, ...]
    compiled: tuple[tuple[str, LayerShape], ...]
    timed: tuple[tuple[str, str, LayerShape], ...]


@dataclass(frozen=True)
class OpSpec:
    """Everything about an op that is not its mathematics.

    Attributes:
        name: of the op, its folder and its public function.
        decides: name of the tensor whose type is the type of the products.
        limits: what the kernel takes.
        compiled: shapes whose kernels docs/kernels.md shows; the tests compile them too.
        extremes: shapes that need most of a GPU, for the tests to compile.
        benched: shapes to measure.
        build: makes the case of a compute capability, a type and a shape.
        arguments: makes random tensors, in the order of the public function; the first has the
            batch as its first dimension. Of a shape, a batch, a type and a device.
        options: the function's other arguments.
        work: operations and bytes of a shape, a batch, and the bytes of an element.
        sources: the kernels that a network launches.
        tuning: the entry of a configuration file below the op's name, from its keys there.
        keywords: names of the last tensors of a shape, if other optional ones come before them.
        trips: how often the kernel's loop runs in a case of a layer.
        plugin: whether the kernel can stand inside a TensorRT engine (`clinreadnet.export.plugins`
            says where the network calls it).
        instead_of: op whose layers it runs too, with what surrounds them.
        channels_last: whether the kernel writes [B, H, W, C] where the function returns
            [B, C, H, W].
    """

    name: str
    decides: str
    limits: Limits
    compiled: tuple[LayerShape, ...]
    extremes: tuple[LayerShape, ...]
    benched: tuple[LayerShape, ...]
    build: Callable[[int, str, LayerShape], Case]
    arguments: Callable[[LayerShape, int, str, torch.device], tuple[Tensor, ...]]
    options: Callable[[LayerShape], dict[str, int]]
    work: Callable[[LayerShape, int, int], Work]
    sources: Callable[[NetworkShape], Iterator[KernelSource]]
    tuning: Callable[..., TuningEntry]
    keywords: Callable[[LayerShape], tuple[str, ...]] = lambda shape: ()
    trips: Callable[[Case, LayerShape], int] = lambda case, shape: 1
    plugin: bool = False
    instead_of: str = ""
    channels_last: bool = False

    def refusal(self, capability: int, dtype: str, shape: LayerShape) -> str | None:
        """Why the kernel does not take a layer, or None; arguments as of `case`."""
        return self.limits.obstacle(
            self.decides,
            DTYPES[dtype],
            capability,
            channels=shape.channels,
            head_dim=shape.head_dim,
            window=shape.window,
            octaves=shape.octaves,
        )

    def case(self, capability: int, dtype: str, shape: LayerShape) -> Case | None:
        """Return what to compile, or None where the op refuses it.

        Args:
            capability: compute capability as one number, 89 for 8.9.
            dtype: name of a type of ``DTYPES``.
            shape: of the layer.
        """
        if self.refusal(capability, dtype, shape) is not None:
            return None
        return self.build(capability, dtype, shape)

    def call(self, tensors: Sequence[Tensor], shape: LayerShape, impl: Impl) -> Tensor:
        """Call the public function on tensors such as ``arguments`` makes."""
        function = getattr(import_module(f"clinreadnet.kernels.ops.{self.name}.op"), self.name)
        positional, named = self.named(tensors, shape)
        out: Tensor = function(*positional, **named, **self.options(shape), impl=impl)
        return out

    def named(
        self, tensors: Sequence[Tensor], shape: LayerShape
    ) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
        """Return the tensors of ``arguments`` that go by position, and those that go by name."""
        names = self.keywords(shape)
        first = len(tensors) - len(names)
        return tensors[:first], dict(zip(names, tensors[first:], strict=True))


def attention_parameters(shape: LayerShape, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Random position bias [heads, N, N], inverse temperature [heads] and gates [heads, T]."""
    heads, octaves, n = shape.heads, shape.octaves, shape.window**2
    return (
        torch.randn(heads, n, n, device=device),
        torch.rand(heads, device=device) + 0.5,
        torch.full((heads, octaves), 1 / octaves, device=device),
    )


def layer_parameters(
    dtype: str, device: torch.device, *shapes: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Random matrices that keep the size of what they multiply, and vectors."""
    made = []
    for shape in shapes:
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 1.0
        made.append((torch.randn(shape, device=device) * scale).to(DTYPES[dtype]))
    return tuple(made)


def grouped(
    layers: Sequence[LayerShape], key: Callable[[LayerShape], Any]
) -> Iterator[list[LayerShape]]:
    """Yield the layers that share a key, and with it a kernel."""
    groups: dict[Any, list[LayerShape]] = {}
    for layer in layers:
        groups.setdefault(key(layer), []).append(layer)
    yield from groups.values()
