"""Spec of the fused MLP half of a block: limits, shapes, work and candidates."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import DTYPES, Limits
from clinreadnet.kernels.grid import TOKENS, Formula
from clinreadnet.kernels.spec import (
    FUSED_CHANNELS,
    LAYER_NORM_EPS,
    STAGES,
    Case,
    KernelSource,
    LayerShape,
    NetworkShape,
    OpSpec,
    TuningEntry,
    Work,
    combinations,
    grouped,
    layer_parameters,
    make_case,
    tuning_entry,
)

LIMITS = Limits(dtypes=("float32", "float16", "bfloat16"), capability=80, channels=FUSED_CHANNELS)

_STAGES = tuple(stage for stage in STAGES if stage.channels in FUSED_CHANNELS)


def build(capability: int, dtype: str, shape: LayerShape) -> Case:
    """Return the case of an MLP. All tensors have the same type."""
    from clinreadnet.kernels.ops.mlp import kernel

    config = kernel.mlp_config(shape.channels, DTYPES[dtype], "", capability)
    return make_case(
        "mlp",
        capability,
        kernel._mlp_fwd_kernel,
        kernel.mlp_constants(shape.channels, shape.hidden, LAYER_NORM_EPS, config),
        config.num_warps,
        dtype,
    )


def arguments(
    shape: LayerShape, batch: int, dtype: str, device: torch.device
) -> tuple[Tensor, ...]:
    """Return tokens and parameters of the layers."""
    c, hidden = shape.channels, shape.hidden
    x = torch.randn(batch, shape.side, shape.side, c, device=device).to(DTYPES[dtype])
    shapes = (c,), (c,), (hidden, c), (hidden,), (c, hidden), (c,)
    return x, *layer_parameters(dtype, device, *shapes)


def work(shape: LayerShape, batch: int, item: int) -> Work:
    """Return the work [B, S, S, C] -> [B, S, S, C]; the hidden layer stays on the chip."""
    tokens, c, hidden = batch * shape.side**2, shape.channels, shape.hidden
    weights = 2 * c + (c + 1) * hidden + (hidden + 1) * c
    return Work(2 * tokens * 2 * c * hidden, item * (2 * tokens * c + weights))


def sources(network: NetworkShape) -> Iterator[KernelSource]:
    """Yield a kernel for all blocks with equal channels."""

    def key(block: LayerShape) -> tuple[int, ...]:
        return block.channels, block.hidden

    def grid(case: Case) -> Formula:
        from clinreadnet.kernels.ops.mlp.kernel import mlp_grid

        return mlp_grid(TOKENS, case.constants["BLOCK_M"])

    fused = [block for block in network.blocks if block.channels in LIMITS.channels]
    for blocks in grouped(fused, key):
        c, hidden = key(blocks[0])
        yield KernelSource(
            name=f"mlp_{c}",
            shape=blocks[0],
            grid=grid,
            shapes={
                "x": (TOKENS, c),
                "norm_weight": (c,),
                "norm_bias": (c,),
                "fc1_weight": (hidden, c),
                "fc1_bias": (hidden,),
                "fc2_weight": (c, hidden),
                "fc2_bias": (c,),
                "out": (TOKENS, c),
            },
            uses=tuple({"layer": b.name, "tokens": b.side * b.side} for b in blocks),
        )


def tuning(dtype: str, channels: str) -> TuningEntry:
    """Return the tuning entry of a stage's MLP."""
    (shape,) = (stage for stage in _STAGES if stage.channels == int(channels))
    precision = {"precision": ("tf32x3",)} if dtype == "float32" else {}
    tiles = {"block_m": (32, 64, 128), "block_hidden": (16, 32, 64)}
    candidates = combinations(**tiles, num_warps=(4, 8), stages=(1, 2), **precision)
    return tuning_entry(candidates, dtype, shape, f"{channels} channels")


MLP = OpSpec(
    name="mlp",
    decides="x",
    limits=LIMITS,
    compiled=_STAGES,
    extremes=(),
    benched=_STAGES,
    build=build,
    arguments=arguments,
    options=lambda shape: {},
    work=work,
    sources=sources,
    tuning=tuning,
    trips=lambda case, shape: -(-case.constants["HIDDEN"] // case.constants["BLOCK_HIDDEN"]),
    plugin=True,
)
