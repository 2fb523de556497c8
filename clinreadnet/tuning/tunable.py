"""What `clinreadnet tune` tries: candidates and examples for each entry of a configuration file."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clinreadnet.kernels import Impl, attention_block, mlp, sobel_stem, window_attention
from clinreadnet.kernels.compile import (
    Case,
    attention_block_case,
    mlp_case,
    sobel_stem_case,
    window_attention_case,
)
from clinreadnet.precision import PRECISIONS
from clinreadnet.spec import SIZE

Config = Mapping[str, Any]

BATCH = 8
STAGES = 4
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""Keys of the files, and the parity budget of each."""


@dataclass(frozen=True)
class Example:
    """Arguments that a configuration is timed on.

    Attributes:
        name: for the table.
        tensors: the first has the batch as its first dimension.
        op: calls the kernel, or the reference in the dtype of the tensors.
        budget: largest relative error to the float64 reference.
    """

    name: str
    tensors: tuple[Tensor, ...]
    op: Callable[[Sequence[Tensor], Impl], Tensor]
    budget: float


@dataclass(frozen=True)
class Tunable:
    """One entry of a configuration file.

    Attributes:
        candidates: configurations to try beside the one in use.
        cases: what the compiler is given for a compute capability, for the kernels that this entry
            launches and that need most registers.
        examples: what to time, made on a device.
    """

    candidates: tuple[Config, ...]
    cases: Callable[[int], list[Case]]
    examples: Callable[[torch.device], list[Example]]


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _sobel_stem(padded: str) -> Tunable:
    """Output channels padded to ``padded``: one configuration for all dtypes."""
    c0 = {"16": 16, "32": 24, "64": 48}[padded]  # of the presets

    def examples(device: torch.device) -> list[Example]:
        made = []
        for name, precision in DTYPES.items():
            x = torch.rand(BATCH, 1, SIZE, SIZE, device=device)
            weight = torch.randn(c0, 4, 3, 3, device=device, dtype=_dtype(name)) / 4
            bias = torch.randn(c0, device=device, dtype=_dtype(name))

            def op(tensors: Sequence[Tensor], impl: Impl) -> Tensor:
                return sobel_stem(*tensors, impl=impl)

            made.append(Example(name, (x, weight, bias), op, PRECISIONS[precision].budget))
        return made

    tiles = [(2, 32), (2, 64), (4, 16), (4, 32), (4, 64), (8, 16), (8, 32)]
    return Tunable(
        candidates=tuple(
            {"block_h": h, "block_w": w, "num_warps": warps}
            for (h, w), warps in itertools.product(tiles, (4, 8))
        ),
        cases=lambda capability: [sobel_stem_case(capability, c0, _dtype(name)) for name in DTYPES],
        examples=examples,
    )


def _window_attention(dtype: str, padded: str) -> Tunable:
    """Windows whose tokens are padded to ``padded``."""
    window = {"16": 4, "32": 5, "64": 8, "128": 11, "256": 16}[padded]

    def examples(device: torch.device) -> list[Example]:
        def op(tensors: Sequence[Tensor], impl: Impl) -> Tensor:
            return window_attention(*tensors, window=window, shift=window // 2, impl=impl)

        made = []
        for stage in range(STAGES):
            side = window * max(1, (SIZE // 4 >> stage) // window)
            heads = 3 << stage
            qkv = torch.randn(BATCH, side, side, 3 * 16 * heads, device=device)
            tensors = (
                qkv.to(_dtype(dtype)),
                torch.randn(heads, window**2, window**2, device=device),
                torch.rand(heads, device=device) + 0.5,
                torch.full((heads, 3), 1 / 3, device=device),
            )
            made.append(
                Example(f"stage {stage + 1}", tensors, op, PRECISIONS[DTYPES[dtype]].budget)
            )
        return made

    rows = [m for m in (16, 32, 64, 128) if m <= int(padded)]
    precision = {"precision": "tf32x3"} if dtype == "float32" else {}
    return Tunable(
        candidates=tuple(
            {"block_m": m, "num_warps": warps, **precision}
            for m, warps in itertools.product(rows, (1, 2, 4, 8))
        ),
        # The widest heads and most octaves that the op takes.
        cases=lambda capability: [
            window_attention_case(capability, window, window // 2, 32, 4, _dtype(dtype))
        ],
        examples=examples,
    )


def _block_input(dtype: str, channels: int, device: torch.device) -> Tensor:
    side = SIZE // 4 * 48 // channels  # of the preset `small`
    return torch.randn(BATCH, side, side, channels, device=device).to(_dtype(dtype))


def _layers(dtype: str, device: torch.device, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Matrices that keep the size of what they multiply, and vectors."""
    return [
        (torch.randn(shape, device=device) / (shape[-1] ** 0.5 if len(shape) == 2 else 1)).to(
            _dtype(dtype)
        )
        for shape in shapes
    ]


def _attention_block(dtype: str, channels: str) -> Tunable:
    """The fused attention half of a block of so many channels."""
    c, window = int(channels), 8
    heads = c // 16

    def examples(device: torch.device) -> list[Example]:
        def op(tensors: Sequence[Tensor], impl: Impl) -> Tensor:
            return attention_block(*tensors, window=window, shift=window // 2, impl=impl)

        tensors = (
            _block_input(dtype, c, device),
            *_layers(dtype, device, (c,), (c,), (3 * c, c), (3 * c,), (c, c), (c,)),
            torch.randn(heads, window**2, window**2, device=device),
            torch.rand(heads, device=device) + 0.5,
            torch.full((heads, 3), 1 / 3, device=device),
        )
        return [Example(f"{c} channels", tensors, op, PRECISIONS[DTYPES[dtype]].budget)]

    return Tunable(
        candidates=tuple(
            {"num_warps": warps, "stages": stages}
            for warps, stages in itertools.product((2, 4, 8), (1, 2, 3))
        ),
        cases=lambda capability: [
            attention_block_case(capability, c, heads, window, window // 2, 3, _dtype(dtype))
        ],
        examples=examples,
    )


def _mlp(dtype: str, channels: str) -> Tunable:
    """The fused MLP half of a block of so many channels."""
    c = int(channels)

    def examples(device: torch.device) -> list[Example]:
        def op(tensors: Sequence[Tensor], impl: Impl) -> Tensor:
            return mlp(*tensors, impl=impl)

        shapes = (c,), (c,), (4 * c, c), (4 * c,), (c, 4 * c), (c,)
        tensors = _block_input(dtype, c, device), *_layers(dtype, device, *shapes)
        return [Example(f"{c} channels", tensors, op, PRECISIONS[DTYPES[dtype]].budget)]

    precision = {"precision": "tf32x3"} if dtype == "float32" else {}
    tiles = itertools.product((32, 64, 128), (16, 32, 64), (4, 8), (1, 2))
    return Tunable(
        candidates=tuple(
            {"block_m": m, "block_hidden": n, "num_warps": warps, "stages": stages, **precision}
            for m, n, warps, stages in tiles
        ),
        cases=lambda capability: [mlp_case(capability, c, _dtype(dtype))],
        examples=examples,
    )


TUNABLE: dict[str, Callable[..., Tunable]] = {
    "sobel_stem": _sobel_stem,
    "window_attention": _window_attention,
    "attention_block": _attention_block,
    "mlp": _mlp,
}
"""For each op of the configuration files, its `Tunable` from the keys below the op's name."""
