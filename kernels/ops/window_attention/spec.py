"""Spec of windowed multi-temperature attention: limits, shapes, work and candidates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import DTYPES, Limits
from clinreadnet.kernels.grid import HEADS, B, Formula, H, W
from clinreadnet.kernels.spec import (
    STAGES,
    Case,
    Config,
    KernelSource,
    LayerShape,
    NetworkShape,
    OpSpec,
    TuningEntry,
    Work,
    attention_parameters,
    grouped,
    make_case,
)

MOST_OCTAVES = 4

LIMITS = Limits(
    dtypes=("float32", "float16", "bfloat16"),
    head_dims=(16, 32),
    windows=range(4, 17),
    most_octaves=MOST_OCTAVES,
    window_before_80=8,
)

_WINDOWS = {"16": 4, "32": 5, "64": 8, "128": 11, "256": 16}
"""A window for each padded number of tokens."""


def largest(window: int, shift: int) -> LayerShape:
    """Return the layer with the widest heads and most octaves."""
    width = max(LIMITS.head_dims)
    return LayerShape(f"window {window}", 8 * window, width, 1, window, shift, MOST_OCTAVES)


def build(capability: int, dtype: str, shape: LayerShape) -> Case:
    """Return the case of attention, for any number of heads."""
    from clinreadnet.kernels.ops.window_attention import kernel

    config = kernel.window_attention_config(shape.window, DTYPES[dtype], "", capability)
    return make_case(
        "window_attention",
        capability,
        kernel._window_attention_fwd_kernel,
        kernel.window_attention_constants(
            shape.window, shape.shift, shape.head_dim, shape.octaves, config
        ),
        config.num_warps,
        "float32",
        qkv=dtype,
        out=dtype,
    )


def arguments(
    shape: LayerShape, batch: int, dtype: str, device: torch.device
) -> tuple[Tensor, ...]:
    """Return qkv and the float32 parameters of the scores."""
    qkv = torch.randn(batch, shape.side, shape.side, 3 * shape.channels, device=device)
    return qkv.to(DTYPES[dtype]), *attention_parameters(shape, device)


def work(shape: LayerShape, batch: int, item: int) -> Work:
    """Return the work qkv [B, S, S, 3C] -> [B, S, S, C], with float32 parameters."""
    tokens, n = batch * shape.side**2, shape.window**2
    parameters = shape.heads * (n * n + 1 + shape.octaves)
    return Work(
        2 * 2 * tokens * n * shape.channels, item * 4 * tokens * shape.channels + 4 * parameters
    )


def sources(network: NetworkShape) -> Iterator[KernelSource]:
    """Yield a kernel for all layers that differ only in size or number of heads."""

    def key(block: LayerShape) -> tuple[int, ...]:
        return block.window, block.shift, block.head_dim, block.octaves

    def grid(case: Case) -> Formula:
        from clinreadnet.kernels.ops.window_attention.kernel import window_attention_grid

        constants = case.constants["WINDOW"], case.constants["BLOCK_M"]
        return window_attention_grid(B, H, W, HEADS, *constants)

    for blocks in grouped(network.blocks, key):
        window, shift, head_dim, octaves = key(blocks[0])

        yield KernelSource(
            name=f"window_attention_shift{shift}",
            shape=blocks[0],
            grid=grid,
            shapes={
                "qkv": (B, H, W, 3 * HEADS * head_dim),
                "bias": (HEADS, window**2, window**2),
                "inv_temperature": (HEADS,),
                "gates": (HEADS, octaves),
                "out": (B, H, W, HEADS * head_dim),
            },
            uses=tuple(
                {
                    "layer": f"{block.name}.attention",
                    "H": block.side,
                    "W": block.side,
                    "heads": block.heads,
                }
                for block in blocks
            ),
        )


def tuning(dtype: str, padded: str) -> TuningEntry:
    """Return the tuning entry of windows whose tokens are padded to ``padded``."""
    window = _WINDOWS[padded]
    rows = [m for m in (16, 32, 64, 128) if m <= int(padded)]
    products: list[Config] = [{"wide": False}, {"wide": True}]
    if dtype == "float32":
        products = [{"precision": "tf32x3"}]
    return TuningEntry(
        candidates=tuple(
            {"block_m": m, "num_warps": warps, **product}
            for m, warps, product in itertools.product(rows, (1, 2, 4, 8), products)
        ),
        compiled=((dtype, largest(window, window // 2)),),
        timed=tuple(
            (
                stage.name,
                dtype,
                replace(
                    stage,
                    side=window * max(1, stage.side // window),
                    window=window,
                    shift=window // 2,
                ),
            )
            for stage in STAGES
        ),
    )


WINDOW_ATTENTION = OpSpec(
    name="window_attention",
    decides="qkv",
    limits=LIMITS,
    compiled=STAGES[:1],
    extremes=tuple(largest(window, 2) for window in (4, 5, 7, 11, 16)),
    benched=STAGES,
    build=build,
    arguments=arguments,
    options=lambda shape: {"window": shape.window, "shift": shape.shift},
    work=work,
    sources=sources,
    tuning=tuning,
    plugin=True,
)
