"""Types for the spec of an op: limits, shapes, work and candidates.

Each op defines an `OpSpec` in its ``spec.py``, and `clinreadnet.kernels.registry.OPS` lists all of
them for the compilation, the export of kernels, the tuner, the benchmarks and the tests. A spec
does not import Triton; functions that need the kernel import it when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from typing import Any

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import DTYPES, Impl, Limits
from clinreadnet.kernels.grid import Formula, Shape

POINTERS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}
"""Triton's pointer types of ``DTYPES``."""

LAYER_NORM_EPS = 1e-5
"""Epsilon of all LayerNorms (PyTorch's default), compiled into the kernels."""

Config = Mapping[str, Any]
"""An entry of a configuration file: launch parameters of a kernel."""


@dataclass(frozen=True)
class LayerShape:
    """A layer that an op can run, on square inputs.

    Attributes:
        name: name of the layer, or of its stage.
        side: side of the input in pixels or tokens.
        channels: channels of the output.
        heads: attention heads.
        window: side of a window in tokens.
        shift: cyclic shift in tokens.
        octaves: sharpness levels of the attention.
        hidden: hidden channels of the MLP.
        linear: linear layer: "qkv", "projection", "fc1" or "fc2" of a block; "merge" of 2x2 tokens,
            where ``side`` is that of the output; or "head" with ``hidden`` outputs.
        spread: kind of spread of statistics, "log" or "root"; ``window`` is the side of a region.
        hounsfield: whether the stem encodes Hounsfield units itself.
        batch: slices per launch, if the kernel depends on it.
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
    spread: str = ""
    hounsfield: bool = False
    batch: int | None = None

    @property
    def head_dim(self) -> int:
        """Channels per head."""
        return self.channels // self.heads


STATISTICS = (
    LayerShape("statistics", side=128, channels=48, window=8, spread="log"),
    LayerShape("novelty", side=16, channels=96, window=16, spread="root"),
)
"""Statistics of the preset `small`: of the stem's tokens by tile, and of these over the image."""

HEAD = LayerShape("head", side=16, channels=128)
"""Head of the preset `small`; its channels are the image's features."""


@dataclass(frozen=True)
class NetworkShape:
    """Layers of a network that ops can run."""

    stem: LayerShape
    blocks: tuple[LayerShape, ...]
    linears: tuple[LayerShape, ...] = ()
    head: LayerShape = HEAD
    statistics: tuple[LayerShape, ...] = STATISTICS


STEM = LayerShape("stem", side=512, channels=24)
"""Stem of the preset `small`."""

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
"""Shifted blocks of the preset `small`, one of each stage."""

LINEARS = (
    *(LayerShape(stage.name, stage.side, stage.channels, linear="merge") for stage in STAGES[1:]),
    LayerShape("stage 4", STAGES[-1].side, STAGES[-1].channels, hidden=160, linear="head"),
)
"""Linear layers of the preset `small` outside its blocks."""

FUSED_CHANNELS = (48, 96)
"""Supported channels C of the fused kernels."""


@dataclass(frozen=True)
class Work:
    """Least number of floating-point operations, and of bytes read and written, of a run."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Case:
    """A kernel with all parameters that determine its machine code."""

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
    constants: dict[str, Any],
    num_warps: int,
    dtype: str,
    **others: str,
) -> Case:
    """Return the case of a kernel. Arguments that are neither pointers nor constants are sizes.

    Args:
        op: name of the op.
        capability: compute capability as a number, 89 for 8.9.
        kernel: the Triton kernel.
        constants: compile-time arguments.
        num_warps: warps per program.
        dtype: type of the tensors.
        others: types of tensors that have another one, by name.
    """

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        tensor = name.removesuffix("_ptr")
        return "i32" if tensor == name else POINTERS[others.get(tensor, dtype)]

    signature = {name: kind(name) for name in kernel.arg_names}
    return Case(op, capability, kernel, signature, constants, num_warps)


@dataclass(frozen=True)
class KernelSource:
    """A kernel of a network, for any precision and GPU.

    Attributes:
        name: name in file names.
        shape: shape to compile.
        grid: function from a case to the grid, in terms of sizes.
        shapes: shape of each tensor, by the name of its pointer without ``_ptr``.
        uses: layers that launch the kernel, with their sizes.
        tokens: smallest and largest number of tokens, if other kernels compute the same layers for
            other numbers. The largest is None without a limit.
        plugin: whether graphs call it, if the op can be a plugin.
    """

    name: str
    shape: LayerShape
    grid: Callable[[Case], Formula]
    shapes: Mapping[str, Shape]
    uses: tuple[dict[str, Any], ...]
    tokens: tuple[int, int | None] | None = None
    plugin: bool = True


@dataclass(frozen=True)
class TuningEntry:
    """Candidates and examples for an entry of a configuration file.

    Attributes:
        candidates: configurations to try besides the one in use.
        compiled: types and shapes with the highest register use, to compile before a launch.
        timed: name, type and shape of each example to time.
        library: sides and number of tokens of each example, if the entry can name layers that the
            libraries of PyTorch compute.
    """

    candidates: tuple[Config, ...]
    compiled: tuple[tuple[str, LayerShape], ...]
    timed: tuple[tuple[str, str, LayerShape], ...]
    library: tuple[tuple[str, int], ...] = ()


def tuning_entry(
    candidates: Sequence[Config], dtype: str, shape: LayerShape, name: str = ""
) -> TuningEntry:
    """Return an entry with one example, whose name is by default that of its type."""
    return TuningEntry(tuple(candidates), ((dtype, shape),), ((name or dtype, dtype, shape),))


def combinations(**values: Sequence[Any]) -> list[Config]:
    """Return a configuration for each combination of the values of its parameters."""
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


@dataclass(frozen=True)
class OpSpec:
    """Properties of an op besides its mathematics.

    Attributes:
        name: name of the op, of its folder and of its public function.
        decides: name of the tensor that determines the type of the products.
        limits: limits of the kernel.
        compiled: shapes of the kernels in docs/kernels.md, which the tests compile too.
        extremes: shapes with the highest resource use, for the tests to compile.
        benched: shapes to benchmark.
        build: function from compute capability, type and shape to a case.
        arguments: function from shape, batch, type and device to random tensors in the order of the
            public function. The first dimension of the first tensor is the batch.
        options: function from a shape to the other arguments.
        work: function from shape, batch and element size to the work.
        sources: function from a network to its kernels.
        tuning: function from the keys below the op's name to the tuning entry.
        keywords: names of the last tensors of a shape, if they must be passed by name.
        trips: function from a case and a layer to the number of loop iterations.
        plugin: whether the kernel can be a plugin of a TensorRT engine (see
            `clinreadnet.export.plugins`).
        instead_of: op whose layers this op includes.
        channels_last: whether the kernel writes [B, H, W, C] although the function returns [B, C,
            H, W].
        wide: whether parameters and output are float32 for every type of ``decides``.
    """

    name: str
    decides: str
    limits: Limits
    compiled: tuple[LayerShape, ...]
    extremes: tuple[LayerShape, ...]
    benched: tuple[LayerShape, ...]
    build: Callable[[int, str, LayerShape], Case]
    arguments: Callable[[LayerShape, int, str, torch.device], tuple[Tensor, ...]]
    options: Callable[[LayerShape], dict[str, Any]]
    work: Callable[[LayerShape, int, int], Work]
    sources: Callable[[NetworkShape], Iterator[KernelSource]]
    tuning: Callable[..., TuningEntry]
    keywords: Callable[[LayerShape], tuple[str, ...]] = lambda shape: ()
    trips: Callable[[Case, LayerShape], int] = lambda case, shape: 1
    plugin: bool = False
    instead_of: str = ""
    channels_last: bool = False
    wide: bool = False

    def refusal(self, capability: int, dtype: str, shape: LayerShape) -> str | None:
        """Return why the kernel does not support a layer, or None; arguments as in `case`."""
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
        """Return the case to compile, or None if the op does not support it.

        Args:
            capability: compute capability as a number, 89 for 8.9.
            dtype: name of a type in ``DTYPES``.
            shape: shape of the layer.
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
        """Split the tensors of ``arguments`` into positional and keyword arguments."""
        names = self.keywords(shape)
        first = len(tensors) - len(names)
        return tensors[:first], dict(zip(names, tensors[first:], strict=True))


def attention_parameters(shape: LayerShape, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return random bias [heads, N, N], inverse temperature [heads] and gates [heads, T]."""
    heads, octaves, n = shape.heads, shape.octaves, shape.window**2
    return (
        torch.randn(heads, n, n, device=device),
        torch.rand(heads, device=device) + 0.5,
        torch.full((heads, octaves), 1 / octaves, device=device),
    )


def layer_parameters(
    dtype: str, device: torch.device, *shapes: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Return random matrices that preserve the scale of their input, and vectors."""
    made = []
    for shape in shapes:
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 1.0
        made.append((torch.randn(shape, device=device) * scale).to(DTYPES[dtype]))
    return tuple(made)


def grouped(
    layers: Sequence[LayerShape], key: Callable[[LayerShape], Any]
) -> Iterator[list[LayerShape]]:
    """Yield groups of layers with the same key, which share a kernel."""
    groups: dict[Any, list[LayerShape]] = {}
    for layer in layers:
        groups.setdefault(key(layer), []).append(layer)
    yield from groups.values()
