"""Spec of the ordinal head: limits, shapes, work and candidates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import DTYPES, Limits
from clinreadnet.kernels.grid import B, N
from clinreadnet.kernels.spec import (
    HEAD,
    Case,
    KernelSource,
    LayerShape,
    NetworkShape,
    OpSpec,
    TuningEntry,
    Work,
    combinations,
    layer_parameters,
    make_case,
    tuning_entry,
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
    return make_case(
        "ordinal_head",
        capability,
        kernel._ordinal_head_fwd_kernel,
        kernel.ordinal_head_constants(GRADES, FIRST + features, features, config),
        config.num_warps,
        "float32",
        x=dtype,
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
    yield KernelSource(
        name="ordinal_head",
        shape=head,
        grid=lambda case: B,
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
    return tuning_entry(combinations(block_n=(16, 32, 64), num_warps=(2, 4, 8)), dtype, shape)


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
