"""Spec of the fused attention half of a block: limits, shapes, work and candidates."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import DTYPES, Limits
from clinreadnet.kernels.grid import B, Formula, H, W
from clinreadnet.kernels.ops.window_attention.spec import work as attention_work
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
    attention_parameters,
    combinations,
    grouped,
    layer_parameters,
    make_case,
    tuning_entry,
)

LIMITS = Limits(
    dtypes=("float16", "bfloat16"),
    capability=80,
    channels=FUSED_CHANNELS,
    head_dims=(16, 32),
    windows=range(4, 9),
    most_octaves=3,  # with a fourth some GPUs spill registers
)

_STAGES = tuple(stage for stage in STAGES if stage.channels in FUSED_CHANNELS)


def build(capability: int, dtype: str, shape: LayerShape) -> Case:
    """Return the case of a block; parameters of the scores are float32."""
    from clinreadnet.kernels.ops.attention_block import kernel

    config = kernel.attention_block_config(shape.channels, DTYPES[dtype], "", capability)
    sizes = shape.channels, shape.heads, shape.octaves, shape.window, shape.shift
    return make_case(
        "attention_block",
        capability,
        kernel._attention_block_fwd_kernel,
        kernel.attention_block_constants(*sizes, LAYER_NORM_EPS, config),
        config.num_warps,
        dtype,
        **dict.fromkeys(("position_bias", "inv_temperature", "gates"), "float32"),
    )


def arguments(
    shape: LayerShape, batch: int, dtype: str, device: torch.device
) -> tuple[Tensor, ...]:
    """Return tokens, parameters of the layers, and float32 parameters of the scores."""
    c = shape.channels
    x = torch.randn(batch, shape.side, shape.side, c, device=device).to(DTYPES[dtype])
    layers = layer_parameters(dtype, device, (c,), (c,), (3 * c, c), (3 * c,), (c, c), (c,))
    return x, *layers, *attention_parameters(shape, device)


def work(shape: LayerShape, batch: int, item: int) -> Work:
    """Return the work [B, S, S, C] -> [B, S, S, C]; intermediate values stay on the chip."""
    tokens, c = batch * shape.side**2, shape.channels
    weights = 2 * c + (c + 1) * 3 * c + (c + 1) * c
    parameters = shape.heads * (shape.window**4 + 1 + shape.octaves)
    return Work(
        2 * tokens * c * 4 * c + attention_work(shape, batch, item).flops,
        item * (2 * tokens * c + weights) + 4 * parameters,
    )


def sources(network: NetworkShape) -> Iterator[KernelSource]:
    """Yield a kernel for all blocks that differ only in size."""

    def key(block: LayerShape) -> tuple[int, ...]:
        return block.channels, block.heads, block.window, block.shift, block.octaves

    def grid(case: Case) -> Formula:
        from clinreadnet.kernels.ops.attention_block.kernel import attention_block_grid

        return attention_block_grid(B, H, W, case.constants["WINDOW"])

    fused = [block for block in network.blocks if block.channels in LIMITS.channels]
    for blocks in grouped(fused, key):
        c, heads, window, shift, octaves = key(blocks[0])

        yield KernelSource(
            name=f"attention_block_{c}_shift{shift}",
            shape=blocks[0],
            grid=grid,
            shapes={
                "x": (B, H, W, c),
                "norm_weight": (c,),
                "norm_bias": (c,),
                "qkv_weight": (3 * c, c),
                "qkv_bias": (3 * c,),
                "projection_weight": (c, c),
                "projection_bias": (c,),
                "position_bias": (heads, window**2, window**2),
                "inv_temperature": (heads,),
                "gates": (heads, octaves),
                "out": (B, H, W, c),
            },
            uses=tuple({"layer": b.name, "H": b.side, "W": b.side} for b in blocks),
        )


def tuning(dtype: str, channels: str) -> TuningEntry:
    """Return the tuning entry of a stage's block."""
    (shape,) = (stage for stage in _STAGES if stage.channels == int(channels))
    candidates = combinations(num_warps=(2, 4, 8), stages=(1, 2, 3))
    return tuning_entry(candidates, dtype, shape, f"{channels} channels")


ATTENTION_BLOCK = OpSpec(
    name="attention_block",
    decides="x",
    limits=LIMITS,
    compiled=_STAGES,
    extremes=(LayerShape("base", 128, 96, heads=3, window=8, shift=4, octaves=3),),
    benched=_STAGES,
    build=build,
    arguments=arguments,
    options=lambda shape: {"window": shape.window, "shift": shape.shift},
    work=work,
    sources=sources,
    tuning=tuning,
    trips=lambda case, shape: shape.heads,
    plugin=True,
    instead_of="window_attention",
)
