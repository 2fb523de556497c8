"""Spec of the statistics of regions: limits, shapes, work and candidates."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import DTYPES, Limits
from clinreadnet.kernels.grid import B, Formula, H, W
from clinreadnet.kernels.spec import (
    STATISTICS,
    Case,
    KernelSource,
    LayerShape,
    NetworkShape,
    OpSpec,
    TuningEntry,
    Work,
    combinations,
    make_case,
    tuning_entry,
)

LIMITS = Limits(dtypes=("float32", "float16", "bfloat16"), multiple_of=16)


def _dtype(dtype: str, shape: LayerShape) -> str:
    """Return the type of x: statistics of statistics are float32."""
    return dtype if shape.spread == "log" else "float32"


def build(capability: int, dtype: str, shape: LayerShape) -> Case:
    """Return the case of statistics."""
    from clinreadnet.kernels.ops.region_statistics import kernel

    log, typed = shape.spread == "log", _dtype(dtype, shape)
    config = kernel.region_statistics_config(log, DTYPES[typed], "", capability)
    return make_case(
        "region_statistics",
        capability,
        kernel._region_statistics_fwd_kernel,
        kernel.region_statistics_constants(shape.channels, shape.window, shape.window, log, config),
        config.num_warps,
        "float32",
        x=typed,
    )


def arguments(
    shape: LayerShape, batch: int, dtype: str, device: torch.device
) -> tuple[Tensor, ...]:
    """Return tokens, shift and scale."""
    side, c = shape.side, shape.channels
    x = torch.randn(batch, side, side, c, device=device).to(DTYPES[_dtype(dtype, shape)])
    return x, torch.randn(2 * c, device=device), torch.rand(2 * c, device=device) + 0.5


def options(shape: LayerShape) -> dict[str, int]:
    """Return the regions and the kind of spread."""
    return {"region_h": shape.window, "region_w": shape.window, "log": shape.spread == "log"}


def work(shape: LayerShape, batch: int, item: int) -> Work:
    """Return the work of [B, S, S, C] -> [B, S / w, S / w, 2C] float32."""
    tokens, c = batch * shape.side**2, shape.channels
    item = item if shape.spread == "log" else 4
    return Work(0, item * tokens * c + 4 * (4 * c + tokens // shape.window**2 * 2 * c))


def sources(network: NetworkShape) -> Iterator[KernelSource]:
    """Yield the kernels of the edge statistics and of the novelty."""
    for shape in network.statistics:
        side, c = shape.window, shape.channels

        def grid(case: Case, side: int = side) -> Formula:
            from clinreadnet.kernels.ops.region_statistics.kernel import region_statistics_grid

            regions = B * ((H // side) * (W // side))
            constants = case.constants
            return region_statistics_grid(regions, constants["CHANNELS"], constants["BLOCK_C"])

        yield KernelSource(
            name=f"region_statistics_{shape.spread}",
            shape=shape,
            grid=grid,
            shapes={
                "x": (B, H, W, c),
                "shift": (2 * c,),
                "scale": (2 * c,),
                "out": (B, H // side, W // side, 2 * c),
            },
            uses=({"layer": shape.name, "H": shape.side, "W": shape.side},),
        )


def tuning(dtype: str, spread: str) -> TuningEntry:
    """Return the tuning entry of a kind of spread."""
    (shape,) = (shape for shape in STATISTICS if shape.spread == spread)
    candidates = combinations(block_n=(16, 32, 64), block_c=(16, 32), num_warps=(1, 2, 4))
    return tuning_entry(candidates, dtype, shape)


REGION_STATISTICS = OpSpec(
    name="region_statistics",
    decides="x",
    limits=LIMITS,
    compiled=STATISTICS,
    extremes=(),
    benched=STATISTICS[:1],
    build=build,
    arguments=arguments,
    options=options,
    work=work,
    sources=sources,
    tuning=tuning,
    wide=True,
)
