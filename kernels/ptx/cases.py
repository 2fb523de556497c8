"""Test cases of exported kernels: difficult shapes, an oracle and a budget.

The oracle is the op's reference in float64. The tests of the op compare the reference with its
definition, pixel by pixel and token by token.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clinreadnet.kernels import (
    attention_block,
    fused_linear,
    mlp,
    ordinal_head,
    region_statistics,
    sobel_stem,
    window_attention,
)
from clinreadnet.kernels.ptx.device_arithmetic import arithmetic_of
from clinreadnet.kernels.ptx.inputs import (
    attention_block_inputs,
    fused_linear_inputs,
    mlp_inputs,
    ordinal_head_inputs,
    region_statistics_inputs,
    stem_inputs,
    window_attention_inputs,
)
from clinreadnet.kernels.ptx.launch import Kernel, launch
from clinreadnet.kernels.ptx.program import Program
from clinreadnet.kernels.registry import OPS


@dataclass(frozen=True)
class Case:
    """Arguments of a launch and the expected output.

    Attributes:
        name: name of the shape.
        tensors: inputs by argument name.
        sizes: sizes of the launch.
        reference: output of the op's reference in the type of the kernel.
        expected: output of the oracle, in the layout of the kernel's output.
    """

    name: str
    tensors: Mapping[str, Tensor]
    sizes: Mapping[str, int]
    reference: Tensor
    expected: Tensor

    def over_budget(self, out: Tensor) -> float:
        """Return the error of an output relative to the budget; infinite with NaN.

        Errors are relative, in the 2-norm and in the largest element. The budget of each is twice
        the sum of the reference's error and a rounding of the type.
        """
        rounding = torch.finfo(self.reference.dtype).eps / 2
        pair = errors(out, self.expected), errors(self.reference, self.expected)
        over = max(mine / (2 * (its + rounding)) for mine, its in zip(*pair, strict=True))
        return over if np.isfinite(over) else float("inf")


def errors(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return relative errors in the 2-norm and in the largest element; NaN for NaN."""
    wrong = actual.double() - expected
    largest = wrong.abs().max() / expected.abs().max()
    return (wrong.norm() / expected.norm()).item(), largest.item()


@dataclass(frozen=True)
class Checked:
    """Run of a kernel on a case.

    Attributes:
        out: output.
        over_budget: error relative to the budget.
        executed: executed positions of the program.
    """

    out: Tensor
    over_budget: float
    executed: frozenset[int]


def check(kernel: Kernel, case: Case, program: Program | None = None) -> Checked:
    """Run a kernel, or a mutant of it, on a case.

    Raises:
        PtxError: the program is faulty.
    """
    run = launch(kernel, case.tensors, case.sizes, program)
    out = run.out.reshape(case.expected.shape)
    return Checked(out, case.over_budget(out), run.executed)


def cases(kernel: Kernel) -> list[Case]:
    """Return the cases of an exported kernel."""
    constants = json.dumps(kernel.entry["constants"], sort_keys=True)
    op = next(name for name in _MAKERS if kernel.entry["name"].startswith(name))
    arguments = {item["name"]: item for item in kernel.entry["arguments"]}
    return _made(op, constants, arguments[OPS[op].decides]["element"])


@functools.cache
def _made(op: str, constants: str, dtype: str) -> list[Case]:
    return list(_MAKERS[op](json.loads(constants), getattr(torch, dtype)))


def _stem(constants: Mapping[str, Any], dtype: torch.dtype) -> Iterator[Case]:
    for name, (batch, h, w) in {
        "one-pixel": (1, 1, 1),
        "odd-batch-last-tiles-in-part": (3, 5, 19),
        "even-sides-over-the-tile": (1, 18, 68),
    }.items():
        args = list(stem_inputs(batch, h, w, constants["C0"], torch.float32, dtype))
        encoding = {key: constants[key.upper()] for key in ("lowest", "span")}
        if encoding["span"] is not None:  # beyond both ends of the encoded range
            units = encoding["lowest"] + encoding["span"] * (1.2 * args[0] - 0.1)
            args[0] = units.round().to(torch.float32 if dtype == torch.float32 else torch.float16)
        expected = sobel_stem(*(tensor.double() for tensor in args), **encoding, impl="reference")
        with arithmetic_of("cuda"):
            reference = sobel_stem(*args, **encoding, impl="reference")
        yield Case(
            name,
            dict(zip(("x", "weight", "bias"), args, strict=True)),
            {"B": batch, "H": h, "W": w},
            reference.permute(0, 2, 3, 1),
            expected.permute(0, 2, 3, 1),
        )


def _windows(constants: Mapping[str, Any]) -> dict[str, tuple[int, int, int]]:
    side = constants["WINDOW"]
    return {"one-window": (1, side, side), "odd-batch-h-not-w": (3, side, 2 * side)}


def _attention(constants: Mapping[str, Any], dtype: torch.dtype) -> Iterator[Case]:
    window, shift = constants["WINDOW"], constants["SHIFT"]
    heads, where = 3 if window <= 8 else 1, {"window": window, "shift": shift}
    for name, (batch, h, w) in _windows(constants).items():
        made = window_attention_inputs(
            batch, h, w, heads, constants["HEAD_DIM"], window, constants["OCTAVES"]
        )
        args = [made[0].to(dtype), *(tensor.float() for tensor in made[1:])]
        with arithmetic_of("cuda"):
            reference = window_attention(*args, **where, impl="reference")
        names = ("qkv", "bias", "inv_temperature", "gates")
        yield Case(
            name,
            dict(zip(names, args, strict=True)),
            {"B": batch, "H": h, "W": w, "heads": heads},
            reference,
            window_attention(*(tensor.double() for tensor in args), **where, impl="reference"),
        )


def uneven(x: Tensor) -> Tensor:
    """Scale and shift tokens [..., C] differently, to detect statistics of a wrong token."""
    shape = (*x.shape[:-1], 1)
    generator = torch.Generator().manual_seed(x.numel())
    scale = 0.5 + 1.5 * torch.rand(shape, generator=generator)
    return x * scale.to(x.dtype) + torch.randn(shape, generator=generator).to(x.dtype)


def _attention_block(constants: Mapping[str, Any], dtype: torch.dtype) -> Iterator[Case]:
    window, shift, c = constants["WINDOW"], constants["SHIFT"], constants["CHANNELS"]
    heads, where = c // constants["HEAD_DIM"], {"window": window, "shift": shift}
    names = (
        "x", "norm_weight", "norm_bias", "qkv_weight", "qkv_bias", "projection_weight",
        "projection_bias", "position_bias", "inv_temperature", "gates",
    )  # fmt: skip
    for name, (batch, h, w) in _windows(constants).items():
        made = attention_block_inputs(batch, h, w, c, heads, window, constants["OCTAVES"])
        layers = [tensor.to(dtype) for tensor in (uneven(made[0]), *made[1:7])]
        args = [*layers, *(tensor.float() for tensor in made[7:])]
        yield Case(
            name,
            dict(zip(names, args, strict=True)),
            {"B": batch, "H": h, "W": w},
            attention_block(*args, **where, impl="reference"),
            attention_block(*(tensor.double() for tensor in args), **where, impl="reference"),
        )


def _mlp(constants: Mapping[str, Any], dtype: torch.dtype) -> Iterator[Case]:
    names = (
        "x", "norm_weight", "norm_bias", "fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias"
    )  # fmt: skip
    for name, tokens in {"one-token": 1, "last-tile-in-part": 135}.items():
        made = mlp_inputs(tokens, constants["CHANNELS"], hidden=constants["HIDDEN"])
        args = [tensor.to(dtype) for tensor in (uneven(made[0]), *made[1:])]
        with arithmetic_of("cuda"):
            reference = mlp(*args, impl="reference")
        yield Case(
            name,
            dict(zip(names, args, strict=True)),
            {"tokens": tokens},
            reference,
            mlp(*(tensor.double() for tensor in args), impl="reference"),
        )


def _fused_linear(constants: Mapping[str, Any], dtype: torch.dtype) -> Iterator[Case]:
    norm, residual = ("norm_weight_ptr" not in constants), ("residual_ptr" not in constants)
    merge, channels = "W" not in constants, constants["CHANNELS"]
    where: dict[str, Any] = {"gelu": constants["GELU"], "merge": merge, "impl": "reference"}
    tiles = {"one-token": 1, "last-tile-in-part": constants["BLOCK_M"] + 7}
    for name, tokens in tiles.items():
        shape, sizes = [tokens, channels], {"tokens": tokens}
        if merge:
            b, h, w = (1, 2, 2) if tokens == 1 else (3, 4, 2 * (tokens // 6 + 1))
            shape, sizes = [b, h, w, channels // 4], {"tokens": b * h * w // 4, "W": w}
        made = fused_linear_inputs(
            *shape,
            outputs=constants["OUTPUTS"],
            norm=norm,
            residual=residual,
            merge=merge,
        )
        made |= {"x": uneven(made["x"])}
        tensors: dict[str, Any] = {key: tensor.to(dtype) for key, tensor in made.items()}
        yield Case(
            name,
            tensors,
            sizes,
            fused_linear(**tensors, **where),
            fused_linear(**{key: tensor.double() for key, tensor in tensors.items()}, **where),
        )


def _ordinal_head(constants: Mapping[str, Any], dtype: torch.dtype) -> Iterator[Case]:
    names = "x", "weight", "bias", "gain", "grades"
    where = {key: constants[key.upper()] for key in ("count", "first", "features")}
    for name, (batch, tokens) in {"one-token": (1, 1), "last-chunk-in-part": (3, 71)}.items():
        x, *parameters = ordinal_head_inputs(batch, tokens, **where)
        args = [x.to(dtype), *(tensor.float() for tensor in parameters)]
        yield Case(
            name,
            dict(zip(names, args, strict=True)),
            {"B": batch, "N": tokens},
            ordinal_head(*args, impl="reference"),
            ordinal_head(*(tensor.double() for tensor in args), impl="reference"),
        )


def _region_statistics(constants: Mapping[str, Any], dtype: torch.dtype) -> Iterator[Case]:
    where: dict[str, Any] = {
        "region_h": constants["REGION_H"],
        "region_w": constants["REGION_W"],
        "log": constants["LOG"],
    }
    for name, (batch, rows, columns) in {"one-region": (1, 1, 1), "h-not-w": (3, 2, 3)}.items():
        h, w = rows * constants["REGION_H"], columns * constants["REGION_W"]
        x, shift, scale = region_statistics_inputs(batch, h, w, constants["CHANNELS"])
        args = x.to(dtype), shift.float(), scale.float()
        yield Case(
            name,
            dict(zip(("x", "shift", "scale"), args, strict=True)),
            {"B": batch, "H": h, "W": w},
            region_statistics(*args, **where, impl="reference"),
            region_statistics(*(t.double() for t in args), **where, impl="reference"),
        )


_MAKERS = {
    "sobel_stem": _stem,
    "window_attention": _attention,
    "attention_block": _attention_block,
    "mlp": _mlp,
    "fused_linear": _fused_linear,
    "ordinal_head": _ordinal_head,
    "region_statistics": _region_statistics,
}
