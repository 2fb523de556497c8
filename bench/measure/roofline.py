"""Roofline of the network: least operations and bytes, and the time for them.

A product of [m, k] and [k, n] counts as 2 m k n operations; everything else (softmax, LayerNorm,
GELU, Sobel sums) does not count, so that a percentage of the limit is never too high. An op must
read its inputs and weights once and write its output once. The whole network must read the slices
and the weights and write its outputs; a perfect implementation keeps intermediate values on the
chip.
"""

from __future__ import annotations

from collections.abc import Mapping

from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import LayerShape, Work
from clinreadnet.model.network import ClinReadNetConfig
from clinreadnet.precision import PRECISIONS, with_wider
from clinreadnet.spec import FINE_GRADES, SIZE, TILE


def limit(work: Work, rates: Mapping[str, float], precision: str) -> float:
    """Return the least time on this machine in seconds.

    Args:
        work: work of a run.
        rates: ``copy`` in bytes/s and matmul rates in FLOP/s by precision. If the rate of a
            precision was not measured, as for 8-bit products, that of a wider one is used.
        precision: precision of the run.
    """
    rate = max(rates[p] for p in with_wider(precision) if p in rates)
    return max(work.flops / rate, work.bytes / rates["copy"])


def product(m: float, k: float, n: float, item: int) -> Work:
    """Return the work of a layer that multiplies [m, k] by weights [k, n] and adds a bias [n]."""
    return Work(2 * m * k * n, item * (m * k + k * n + n + m * n))


def ops(config: ClinReadNetConfig, batch: int, precision: str, side: int = SIZE) -> dict[str, Work]:
    """Return the work of each op of the network by name. Stages are numbered from 1.

    Args:
        config: hyperparameters of the network.
        batch: slices per run.
        precision: precision of weights and activations.
        side: side of a slice in pixels.
    """
    item, dim = PRECISIONS[precision].item_size, config.embed_dim
    stem = LayerShape("stem", side, dim // 2)
    works = {"sobel_stem": OPS["sobel_stem"].work(stem, batch, item)}
    side //= 4
    half, tokens = dim // 2, batch * side**2
    works["embed"] = Work(
        2 * tokens * 9 * half * dim,
        item * (4 * tokens * half + 9 * half * dim + dim + tokens * dim),
    )
    # Whitening of mean and deviation of each statistic, of which there are two per channel.
    size = 4 * dim
    works["novelty"] = product(batch, size, size, 4) + Work(0, -4 * size)  # it adds no bias
    for stage, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True), 1):
        if stage > 1:
            side //= 2
            tokens = batch * side**2
            merged = product(tokens, 4 * dim, 2 * dim, item)
            works[f"merge {stage}"] = merged + Work(0, -item * 2 * dim)  # it adds no bias
            dim *= 2
        block = LayerShape(
            f"stage {stage}", side, dim, heads, config.window, octaves=config.octaves
        )
        hidden = config.mlp_ratio * dim
        layers = {
            "qkv": product(tokens, dim, 3 * dim, item),
            "window_attention": OPS["window_attention"].work(block, batch, item),
            "projection": product(tokens, dim, dim, item),
            "mlp": product(tokens, dim, hidden, item) + product(tokens, hidden, dim, item),
        }
        for name, work in layers.items():
            works[f"{name} {stage}"] = Work(depth * work.flops, depth * work.bytes)
    # Votes and weights of the tiles; their weighted mixture in float32; and the image's MLP.
    joined = 2 * tokens * (FINE_GRADES + dim)
    works["head"] = (
        product(tokens, dim, FINE_GRADES + 1, item)
        + Work(joined, 4 * batch * (FINE_GRADES + dim) + 4 * tokens * (FINE_GRADES + 1 + dim))
        + product(batch, dim, config.image_dim, item)
        + product(batch, config.image_dim, FINE_GRADES, item)
        + Work(0, item)  # the mixture's gain
    )
    return works


def network(
    config: ClinReadNetConfig, batch: int, precision: str, parameters: int, side: int = SIZE
) -> Work:
    """Return the work of the whole network, with float32 slices and outputs.

    Args:
        config, batch, precision, side: as in `ops`.
        parameters: number of weights.
    """
    flops = sum(work.flops for work in ops(config, batch, precision, side).values())
    outputs = batch * (2 + FINE_GRADES + (side // TILE) ** 2)
    return Work(
        flops, 4 * (batch * side**2 + outputs) + PRECISIONS[precision].item_size * parameters
    )
