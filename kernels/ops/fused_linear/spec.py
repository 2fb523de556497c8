"""Spec of the fused linear layer: limits, shapes, work and candidates."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import DTYPES, Limits
from clinreadnet.kernels.grid import TOKENS, Formula
from clinreadnet.kernels.ops.attention_block.spec import ATTENTION_BLOCK
from clinreadnet.kernels.ops.mlp.spec import MLP
from clinreadnet.kernels.spec import (
    LAYER_NORM_EPS,
    LINEARS,
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
)

LIMITS = Limits(dtypes=("float16", "bfloat16"), capability=80, multiple_of=32)

HALVES = ((ATTENTION_BLOCK, ("qkv", "projection")), (MLP, ("fc1", "fc2")))
"""Ops of whole halves of a block, with the linear layers of each half."""


def _refused(half: OpSpec, block: LayerShape) -> bool:
    return half.refusal(LIMITS.capability, LIMITS.dtypes[0], block) is not None


def _layers(*blocks: LayerShape) -> Iterator[LayerShape]:
    """Yield the linear layers of halves that no other kernel computes as a whole, and others."""
    for block in blocks:
        if block.linear:
            yield block
            continue
        for half, names in HALVES:
            if _refused(half, block):
                yield from (replace(block, linear=name) for name in names)


def normalises(shape: LayerShape) -> bool:
    """Return whether a LayerNorm precedes the layer. A residual follows all other layers."""
    return shape.linear in ("qkv", "fc1", "merge", "head")


def sides(shape: LayerShape) -> tuple[int, int]:
    """Return the number of channels and of outputs of the layer."""
    c, hidden = shape.channels, shape.hidden
    return {
        "qkv": (c, 3 * c),
        "projection": (c, c),
        "fc1": (c, hidden),
        "fc2": (hidden, c),
        "merge": (2 * c, c),
        "head": (c, hidden),
    }[shape.linear]


def build(capability: int, dtype: str, shape: LayerShape) -> Case:
    """Return the case of a layer, by default for one slice. All tensors have the same type."""
    from clinreadnet.kernels.ops.fused_linear import kernel

    normalised, merge = normalises(shape), shape.linear == "merge"
    tokens = (shape.batch or 1) * shape.side**2
    config = kernel.fused_linear_config(normalised, tokens, DTYPES[dtype], "", capability)
    missing = ["residual_ptr"] if normalised else ["norm_weight_ptr", "norm_bias_ptr"]
    missing.append("bias_ptr" if merge else "W")
    constants = kernel.fused_linear_constants(
        *sides(shape), shape.linear == "fc1", LAYER_NORM_EPS, merge, config
    )
    return make_case(
        "fused_linear",
        capability,
        kernel._fused_linear_fwd_kernel,
        dict.fromkeys(missing) | constants,
        config.num_warps,
        dtype,
    )


def arguments(
    shape: LayerShape, batch: int, dtype: str, device: torch.device
) -> tuple[Tensor, ...]:
    """Return tokens, parameters of the layer, and LayerNorm parameters or residual."""
    c, outputs = sides(shape)

    def tokens(width: int) -> Tensor:
        return torch.randn(batch, shape.side, shape.side, width, device=device).to(DTYPES[dtype])

    if shape.linear == "merge":
        x = tokens(c).reshape(batch, 2 * shape.side, 2 * shape.side, c // 4)
        return x, *layer_parameters(dtype, device, (outputs, c), (c,), (c,))
    layer = layer_parameters(dtype, device, (outputs, c), (outputs,))
    if normalises(shape):
        return tokens(c), *layer, *layer_parameters(dtype, device, (c,), (c,))
    return tokens(c), *layer, tokens(outputs)


def work(shape: LayerShape, batch: int, item: int) -> Work:
    """Return the work [B, S, S, C] -> [B, S, S, N], with the residual."""
    tokens, (c, outputs) = batch * shape.side**2, sides(shape)
    around = 2 * c if normalises(shape) else tokens * outputs
    bias = 0 if shape.linear == "merge" else outputs
    moved = tokens * c + c * outputs + bias + tokens * outputs + around
    return Work(2 * tokens * c * outputs, item * moved)


BATCHES = (1, 8, 64)
"""Slices per launch for which kernels are compiled and tuned."""


def _by_size(layers: Iterable[LayerShape]) -> dict[str, list[LayerShape]]:
    """Return the layers at all batches by the key of their launch configuration."""
    from clinreadnet.kernels.ops.fused_linear.kernel import size_of

    sizes: dict[str, list[LayerShape]] = {}
    for layer, batch in itertools.product(layers, BATCHES):
        size = size_of(batch * layer.side**2)
        sizes.setdefault(size, []).append(replace(layer, batch=batch))
    return sizes


def sources(network: NetworkShape) -> Iterator[KernelSource]:
    """Yield kernels for the same layer of all blocks with equal channels, one for each size."""
    from clinreadnet.kernels.ops.fused_linear.kernel import SIZES, fused_linear_grid

    def key(layer: LayerShape) -> tuple[str, int, int]:
        return layer.linear, layer.channels, layer.hidden

    def grid(case: Case) -> Formula:
        return fused_linear_grid(
            TOKENS, *(case.constants[name] for name in ("OUTPUTS", "BLOCK_M", "BLOCK_N"))
        )

    for layers in grouped(list(_layers(*network.linears, *network.blocks)), key):
        c, outputs = sides(layers[0])
        merge = layers[0].linear == "merge"
        for size, shapes in _by_size(layers[:1]).items():
            yield KernelSource(
                name=f"fused_linear_{layers[0].linear}_{layers[0].channels}_{size}",
                shape=shapes[0],
                grid=grid,
                shapes={
                    "x": (4 * TOKENS, c // 4) if merge else (TOKENS, c),
                    "weight": (outputs, c),
                    "bias": (outputs,),
                    "norm_weight": (c,),
                    "norm_bias": (c,),
                    "residual": (TOKENS, outputs),
                    "out": (TOKENS, outputs),
                },
                uses=tuple(
                    {"layer": layer.name, "tokens": layer.side**2}
                    | ({"W": 2 * layer.side} if merge else {})
                    for layer in layers
                ),
                tokens=SIZES[size],
            )


_STAGES = tuple(
    replace(layer, name=f"{layer.name} {layer.linear}") for layer in _layers(*LINEARS, *STAGES)
)


def tuning(dtype: str, kind: str, size: str) -> TuningEntry:
    """Return the tuning entry of layers of the preset `small`, with or without LayerNorm."""
    layers = [layer for layer in _STAGES if normalises(layer) == (kind == "norm")]
    shapes = _by_size(layers)[size]
    blocks = {"small": (32, 64), "medium": (64, 128), "large": (128, 256)}[size]
    tiles = combinations(
        block_m=blocks, block_n=blocks, block_k=(32, 64), num_warps=(4, 8), stages=(1, 2, 3)
    )
    return TuningEntry(
        candidates=tuple(
            tile
            for tile in tiles
            # On sm_90 products of 64 tokens are asynchronous and read normalised tokens from
            # registers. With a second stage, Triton overwrites these registers too early.
            if kind == "plain" or tile["block_m"] < 64 or tile["stages"] == 1
        ),
        compiled=tuple((dtype, shape) for shape in shapes),
        timed=tuple((f"{shape.name}, batch {shape.batch}", dtype, shape) for shape in shapes),
        library=tuple(
            ("{}x{}".format(*sides(shape)), (shape.batch or 1) * shape.side**2) for shape in shapes
        ),
    )


def _keywords(shape: LayerShape) -> tuple[str, ...]:
    """Return the names of the last tensors of ``arguments``, which are passed by name."""
    if shape.linear == "merge":
        return "norm_weight", "norm_bias"
    return () if normalises(shape) else ("residual",)


FUSED_LINEAR = OpSpec(
    name="fused_linear",
    decides="x",
    limits=LIMITS,
    compiled=tuple(
        replace(layer, name=f"{layer.name} batch {batch}", batch=batch)
        for layer, batch in itertools.product((_STAGES[0], *_STAGES[6:8]), BATCHES)
    ),
    extremes=(),
    benched=_STAGES,
    build=build,
    arguments=arguments,
    options=lambda shape: {"gelu": shape.linear == "fc1", "merge": shape.linear == "merge"},
    work=work,
    sources=sources,
    tuning=tuning,
    keywords=_keywords,
    trips=lambda case, shape: case.constants["CHANNELS"] // case.constants["BLOCK_K"],
)
