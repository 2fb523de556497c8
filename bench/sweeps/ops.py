"""Time each op of the network `small` on the processor: one slice, PyTorch, float32.

The time of a call relative to the roofline shows where the network spends its time and how much
could be saved. On a GPU, `test_kernels.py` measures the ops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from bench.measure import roofline
from bench.rows import OpRow
from bench.run import TimedRow, Timing, host_sample, interleave, marks, summary, warm_up
from clinreadnet.kernels import sobel_stem, window_attention
from clinreadnet.kernels.spec import Work
from clinreadnet.model.network import ClinReadNetConfig

CONFIG = ClinReadNetConfig()
NAMES = list(roofline.ops(CONFIG, 1, "fp32"))


def runner(name: str) -> Callable[[], object]:
    """Return a function that calls an op on fixed inputs."""
    op, _, number = name.partition(" ")
    stage = int(number or len(CONFIG.depths))
    dim, side = CONFIG.embed_dim << (stage - 1), 256 >> stage
    rand = torch.randn
    if op == "sobel_stem":
        c = CONFIG.embed_dim // 2
        x, weight, bias = rand(1, 1, 512, 512), rand(c, 4, 3, 3), rand(c)
        return lambda: sobel_stem(x, weight, bias, impl="reference")
    if op == "embed":
        c = CONFIG.embed_dim
        x, weight, bias = rand(1, c // 2, 256, 256), rand(c, c // 2, 3, 3), rand(c)
        return lambda: F.conv2d(x, weight, bias, stride=2, padding=1)
    if op == "window_attention":
        heads, n = CONFIG.heads[stage - 1], CONFIG.window**2
        tensors = (rand(1, side, side, 3 * dim), rand(heads, n, n), rand(heads).exp())
        gates = torch.full((heads, CONFIG.octaves), 1 / CONFIG.octaves)
        return lambda: window_attention(
            *tensors, gates, window=CONFIG.window, shift=CONFIG.window // 2, impl="reference"
        )
    if op == "novelty":
        size = 4 * CONFIG.embed_dim
        statistics, whitening = rand(1, size), rand(size, size)
        return lambda: F.linear(statistics, whitening)
    shapes = {
        "qkv": ((dim, 3 * dim),),
        "projection": ((dim, dim),),
        "mlp": ((dim, 4 * dim), (4 * dim, dim)),
        "merge": ((2 * dim, dim),),
        "head": ((dim, 22),),
    }[op]
    x = rand(side * side, shapes[0][0])
    layers = [(rand(n, k), rand(n)) for k, n in shapes]

    def linear() -> object:
        y = F.linear(x, *layers[0])
        return F.linear(F.gelu(y), *layers[1]) if len(layers) > 1 else y

    return linear


def measure(name: str, rates: Mapping[str, float], timing: Timing) -> TimedRow:
    """Time a call of an op.

    Args:
        name: one of ``NAMES``.
        rates: rates of this machine, as in `bench.measure.rates`.
        timing: duration of the measurement.
    """
    work = roofline.ops(CONFIG, 1, "fp32")[name]
    op, _, stage = name.partition(" ")
    depth = CONFIG.depths[int(stage) - 1] if stage and op != "merge" else 1
    work = Work(work.flops / depth, work.bytes / depth)
    run, short = runner(name), timing.at_most(1.0)
    sample = host_sample(lambda _: run(), [None])
    with torch.inference_mode():
        warm = warm_up(sample, **short.warm_up)
        times = interleave({name: sample}, **short.interleave)[name]
    measured, limit = summary(times), roofline.limit(work, rates, "fp32")
    row = OpRow(
        what=name,
        flops=work.flops,
        bytes=work.bytes,
        limit=limit,
        percent_of_limit=100 * limit / measured["p50"],
        precision="fp32",
        batch=1,
        marks=tuple(marks(times, warm)),
        **measured,
    )
    return TimedRow(row, times)
