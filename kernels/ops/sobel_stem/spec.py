"""Spec of the Sobel stem: limits, shapes, work and candidates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import DTYPES, Limits
from clinreadnet.kernels.grid import B, Formula, H, W
from clinreadnet.kernels.spec import (
    STEM,
    Case,
    KernelSource,
    LayerShape,
    NetworkShape,
    OpSpec,
    TuningEntry,
    Work,
    make_case,
    tuning_entry,
)

LOWEST, SPAN = -1000.0, 1400.0
"""Encoding of Hounsfield units."""

LIMITS = Limits(dtypes=("float32", "float16", "bfloat16"), most_channels=64)

_CHANNELS = {"16": 16, "32": 24, "64": 48}
"""Output channels of the presets, by the padded number in the kernel."""


def _x_dtype(dtype: str, shape: LayerShape) -> str:
    """Return the type of the slices. Float16 has all Hounsfield units of the encoded range."""
    return "float16" if shape.hounsfield and dtype != "float32" else "float32"


def options(shape: LayerShape) -> dict[str, float]:
    """Return the encoding."""
    return {"lowest": LOWEST, "span": SPAN} if shape.hounsfield else {}


def build(capability: int, dtype: str, shape: LayerShape) -> Case:
    """Return the case of a stem on encoded float32 slices, or on Hounsfield units."""
    from clinreadnet.kernels.ops.sobel_stem import kernel

    config = kernel.sobel_stem_config(shape.channels, DTYPES[dtype], "", capability)
    return make_case(
        "sobel_stem",
        capability,
        kernel._sobel_stem_fwd_kernel,
        kernel.sobel_stem_constants(shape.channels, DTYPES[dtype], config, **options(shape)),
        config.num_warps,
        dtype,
        x=_x_dtype(dtype, shape),
    )


def arguments(
    shape: LayerShape, batch: int, dtype: str, device: torch.device
) -> tuple[Tensor, ...]:
    """Return slices, weight and bias."""
    x = torch.rand(batch, 1, shape.side, shape.side, device=device)
    if shape.hounsfield:
        x = LOWEST + SPAN * x
    return (
        x.to(DTYPES[_x_dtype(dtype, shape)]),
        torch.randn(shape.channels, 4, 3, 3, device=device, dtype=DTYPES[dtype]) / 4,
        torch.randn(shape.channels, device=device, dtype=DTYPES[dtype]),
    )


def work(shape: LayerShape, batch: int, item: int) -> Work:
    """Return the work of [B, 1, S, S] -> [B, C0, S / 2, S / 2]."""
    pixels, channels = batch * (shape.side // 2) ** 2, shape.channels
    moved = item * (pixels * channels + 4 * 9 * channels + channels)
    read = 2 if shape.hounsfield and item == 2 else 4
    return Work(2 * pixels * 4 * 9 * channels, read * batch * shape.side**2 + moved)


def sources(network: NetworkShape) -> Iterator[KernelSource]:
    """Yield the kernels of the stem, on encoded slices and on Hounsfield units."""
    stem, c0 = network.stem, network.stem.channels

    def grid(case: Case) -> Formula:
        from clinreadnet.kernels.ops.sobel_stem.kernel import sobel_stem_grid

        return sobel_stem_grid(B, H, W, case.constants["BLOCK_H"], case.constants["BLOCK_W"])

    for hounsfield in (False, True):
        yield KernelSource(
            name="sobel_stem_hu" if hounsfield else "sobel_stem",
            shape=replace(stem, hounsfield=hounsfield),
            grid=grid,
            shapes={
                "x": (B, 1, H, W),
                "weight": (c0, 4, 3, 3),
                "bias": (c0,),
                "out": (B, (H + 1) // 2, (W + 1) // 2, c0),
            },
            uses=({"layer": stem.name, "H": stem.side, "W": stem.side},),
            plugin=not hounsfield,
        )


def tuning(dtype: str, padded: str) -> TuningEntry:
    """Return the tuning entry for output channels that are padded to ``padded``."""
    shape = LayerShape("stem", STEM.side, _CHANNELS[padded])
    tiles = [(2, 32), (2, 64), (2, 128), (4, 16), (4, 32), (4, 64), (8, 16), (8, 32)]
    candidates = [
        {"block_h": h, "block_w": w, "num_warps": warps} for h, w in tiles for warps in (2, 4, 8)
    ]
    return tuning_entry(candidates, dtype, shape)


SOBEL_STEM = OpSpec(
    name="sobel_stem",
    decides="weight",
    limits=LIMITS,
    compiled=(STEM, replace(STEM, name="stem hu", hounsfield=True)),
    extremes=(LayerShape("tiny", 512, 16), LayerShape("base", 512, 48)),
    benched=(STEM,),
    build=build,
    arguments=arguments,
    options=options,
    work=work,
    sources=sources,
    tuning=tuning,
    plugin=True,
    channels_last=True,
)
