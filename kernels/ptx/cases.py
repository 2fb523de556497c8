"""Test cases of exported kernels: difficult shapes, an oracle and a budget.

The oracle is the op's reference in float64. The tests of the op compare the reference with its
definition, pixel by pixel and token by token.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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


def _case(
    op: Callable[..., Tensor],
    name: str,
    tensors: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    *,
    device: str = "cpu",
    **options: Any,
) -> Case:
    """Return a case of an op.

    Args:
        op: public function of the op.
        name: name of the shape.
        tensors: inputs by argument name.
        sizes: sizes of the launch.
        device: device whose float32 arithmetic the reference has, see `arithmetic_of`.
        options: other arguments of the op.
    """
    with arithmetic_of(device):
        reference = op(**tensors, **options, impl="reference")
    exact = {key: tensor.double() for key, tensor in tensors.items()}
    return Case(name, tensors, sizes, reference, op(**exact, **options, impl="reference"))


def _typed(
    op: Callable[..., Tensor], tensors: Sequence[Tensor], dtype: torch.dtype, count: int
) -> dict[str, Tensor]:
    """Return the first arguments of an op by name: ``count`` in ``dtype``, others in float32."""
    names = itertools.islice(inspect.signature(op).parameters, len(tensors))
    types = [dtype] * count + [torch.float32] * (len(tensors) - count)
    return {name: x.to(kind) for name, x, kind in zip(names, tensors, types, strict=True)}


def _stem(constants: Mapping[str, Any], dtype: torch.dtype) -> Iterator[Case]:
    for name, (batch, h, w) in {
        "one-pixel": (1, 1, 1),
        "odd-batch-last-tiles-in-part": (3, 5, 19),
        "even-sides-over-the-tile": (1, 18, 68),
    }.items():
        x, weight, bias = stem_inputs(batch, h, w, constants["C0"], torch.float32, dtype)
        encoding = {key: constants[key.upper()] for key in ("lowest", "span")}
        if encoding["span"] is not None:  # beyond both ends of the encoded range
            units = encoding["lowest"] + encoding["span"] * (1.2 * x - 0.1)
            x = units.round().to(torch.float32 if dtype == torch.float32 else torch.float16)
        tensors, sizes = {"x": x, "weight": weight, "bias": bias}, {"B": batch, "H": h, "W": w}
        case = _case(sobel_stem, name, tensors, sizes, device="cuda", **encoding)
        reference, expected = (out.permute(0, 2, 3, 1) for out in (case.reference, case.expected))
        yield replace(case, reference=reference, expected=expected)


def _windows(constants: Mapping[str, Any]) -> dict[str, tuple[int, int, int]]:
    side = constants["WINDOW"]
    return {"one-window": (1, side, side), "odd-batch-h-not-w": (3, side, 2 * side)}


def _attention(constants: Mapping[str, Any], dtype: torch.dtype) -> Iterator[Case]:
    window, shift = constants["WINDOW"], constants["SHIFT"]
    heads = 3 if window <= 8 else 1
    for name, (batch, h, w) in _windows(constants).items():
        made = window_attention_inputs(
            batch, h, w, heads, constants["HEAD_DIM"], window, constants["OCTAVES"]
        )
        tensors = _typed(window_attention, made, dtype, 1)
        sizes = {"B": batch, "H": h, "W": w, "heads": heads}
        yield _case(
            window_attention, name, tensors, sizes, device="cuda", window=window, shift=shift
        )


def uneven(x: Tensor) -> Tensor:
    """Scale and shift tokens [..., C] differently, to detect statistics of a wrong token."""
    shape = (*x.shape[:-1], 1)
    generator = torch.Generator().manual_seed(x.numel())
    scale = 0.5 + 1.5 * torch.rand(shape, generator=generator)
    return x * scale.to(x.dtype) + torch.randn(shape, generator=generator).to(x.dtype)


def _attention_block(constants: Mapping[str, Any], dtype: torch.dtype) -> Iterator[Case]:
    window, shift, c = constants["WINDOW"], constants["SHIFT"], constants["CHANNELS"]
    heads = c // constants["HEAD_DIM"]
    for name, (batch, h, w) in _windows(constants).items():
        x, *others = attention_block_inputs(batch, h, w, c, heads, window, constants["OCTAVES"])
        tensors = _typed(attention_block, [uneven(x), *others], dtype, 7)
        sizes = {"B": batch, "H": h, "W": w}
        yield _case(attention_block, name, tensors, sizes, window=window, shift=shift)


def _mlp(constants: Mapping[str, Any], dtype: torch.dtype) -> Iterator[Case]:
    for name, tokens in {"one-token": 1, "last-tile-in-part": 135}.items():
        x, *layers = mlp_inputs(tokens, constants["CHANNELS"], hidden=constants["HIDDEN"])
        tensors = _typed(mlp, [uneven(x), *layers], dtype, 7)
        yield _case(mlp, name, tensors, {"tokens": tokens}, device="cuda")


def _fused_linear(constants: Mapping[str, Any], dtype: torch.dtype) -> Iterator[Case]:
    norm, residual = ("norm_weight_ptr" not in constants), ("residual_ptr" not in constants)
    merge, channels = "W" not in constants, constants["CHANNELS"]
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
        tensors = {key: tensor.to(dtype) for key, tensor in made.items()}
        yield _case(fused_linear, name, tensors, sizes, gelu=constants["GELU"], merge=merge)


def _ordinal_head(constants: Mapping[str, Any], dtype: torch.dtype) -> Iterator[Case]:
    where = {key: constants[key.upper()] for key in ("count", "first", "features")}
    for name, (batch, tokens) in {"one-token": (1, 1), "last-chunk-in-part": (3, 71)}.items():
        tensors = _typed(ordinal_head, ordinal_head_inputs(batch, tokens, **where), dtype, 1)
        yield _case(ordinal_head, name, tensors, {"B": batch, "N": tokens})


def _region_statistics(constants: Mapping[str, Any], dtype: torch.dtype) -> Iterator[Case]:
    where = {key: constants[key.upper()] for key in ("region_h", "region_w", "log")}
    for name, (batch, rows, columns) in {"one-region": (1, 1, 1), "h-not-w": (3, 2, 3)}.items():
        h, w = rows * where["region_h"], columns * where["region_w"]
        made = region_statistics_inputs(batch, h, w, constants["CHANNELS"])
        tensors, sizes = _typed(region_statistics, made, dtype, 1), {"B": batch, "H": h, "W": w}
        yield _case(region_statistics, name, tensors, sizes, **where)


_MAKERS = {
    "sobel_stem": _stem,
    "window_attention": _attention,
    "attention_block": _attention_block,
    "mlp": _mlp,
    "fused_linear": _fused_linear,
    "ordinal_head": _ordinal_head,
    "region_statistics": _region_statistics,
}
