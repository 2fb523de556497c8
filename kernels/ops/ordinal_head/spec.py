"""Spec of the ordinal head: limits, shapes, work and candidates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import DTYPES, Limits
from clinreadnet.kernels.grid import B, Formula, N
from clinreadnet.kernels.spec import (
    HEAD,
    POINTERS,
    Case,
    KernelSource,
    LayerShape,
    NetworkShape,
    OpSpec,
    TuningEntry,
    Work,
    layer_parameters,
    make_case,
)

LIMITS = Limits(dtypes=("float16", "bfloat16"), capability=80, channels=(128,))

GRADES = 21
"""Grades of the network."""

FIRST = 32
"""Values of a token before its features."""


def build(capability: int, dtype: str, shape: LayerShape) -> Case:
    """Return the case of a head."""
    from clinreadnet.kernels.ops.ordinal_head import kernel

    features = shape.channels
    config = kernel.ordinal_head_config(features, DTYPES[dtype], "", capability)
    function = kernel._ordinal_head_fwd_kernel
    wide = {n: POINTERS["float32"] for n in function.arg_names if n.endswith("_ptr")}
    return make_case(
        "ordinal_head",
        capability,
        function,
        wide | {"x_ptr": POINTERS[dtype]},
        kernel.ordinal_head_constants(GRADES, FIRST + features, features, config),
        config.num_warps,
    )


def arguments(
    shape: LayerShape, batch: int, dtype: str, device: torch.device
) -> tuple[Tensor, ...]:
    """Return tokens and parameters of the head."""
    x = torch.randn(batch, shape.side**2, FIRST + shape.channels, device=device)
    layer = layer_parameters("float32", device, (GRADES, shape.channels), (GRADES,))
    gain, grades = torch.ones((), device=device), torch.linspace(0, 4, GRADES, device=device)
    return x.to(DTYPES[dtype]), *layer, gain, grades


def work(shape: LayerShape, batch: int, item: int) -> Work:
    """Return the work of [B, N, F + D] -> [B, 1 + G + N]; parameters and output are float32."""
    tokens, width = shape.side**2, shape.channels
    layer = GRADES * width
    moved = item * batch * tokens * (FIRST + width)
    moved += 4 * (layer + 2 * GRADES + 1 + batch * (1 + GRADES + tokens))
    return Work(2 * batch * (tokens * (GRADES + width) + layer), moved)


def sources(network: NetworkShape) -> Iterator[KernelSource]:
    """Yield the kernel of the head."""
    head = network.head

    def grid(case: Case) -> Formula:
        return B

    yield KernelSource(
        name="ordinal_head",
        shape=head,
        grid=grid,
        shapes={
            "x": (B, N, FIRST + head.channels),
            "weight": (GRADES, head.channels),
            "bias": (GRADES,),
            "gain": (1,),
            "grades": (GRADES,),
            "out": (B, N + (1 + GRADES)),
        },
        uses=({"layer": head.name, "N": head.side**2},),
    )


def tuning(dtype: str, features: str) -> TuningEntry:
    """Return the tuning entry for a number of features."""
    shape = replace(HEAD, channels=int(features))
    return TuningEntry(
        candidates=tuple(
            {"block_n": block, "num_warps": warps}
            for block, warps in itertools.product((16, 32, 64), (2, 4, 8))
        ),
        compiled=((dtype, shape),),
        timed=((dtype, dtype, shape),),
    )


ORDINAL_HEAD = OpSpec(
    name="ordinal_head",
    decides="x",
    limits=LIMITS,
    compiled=(HEAD,),
    extremes=(),
    benched=(HEAD,),
    build=build,
    arguments=arguments,
    options=lambda shape: {},
    work=work,
    sources=sources,
    tuning=tuning,
    trips=lambda case, shape: -(-(shape.side**2) // case.constants["BLOCK_N"]),
    wide=True,
)
