"""Time the kernel of each op on this machine's GPU and PyTorch baselines.

Shapes, arguments and bytes are those of the op's spec. Baselines are the reference in eager mode
and with torch.compile; for attention, scaled_dot_product_attention per octave on partitioned
windows, eager and compiled; for fused halves of a block, the same half on the other kernels. All
run in CUDA graphs with cold caches (`cuda_clock`). Bytes are the least number that an op must read
and write; percent is relative to a copy of as many bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.measure import device
from bench.measure.cuda_clock import copy_milliseconds, milliseconds
from bench.measure.stock_attention import StockAttention
from bench.rows import KernelRow
from bench.run import Inexact
from clinreadnet.kernels import window_attention
from clinreadnet.kernels.dispatch import DTYPES
from clinreadnet.kernels.ops.layer_norm.reference import layer_norm_reference
from clinreadnet.kernels.ops.mlp.reference import mlp_reference
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import LAYER_NORM_EPS, LayerShape, OpSpec
from clinreadnet.precision import PRECISIONS, precision_of
from clinreadnet.runtime.comparison import relative_error

ENGINE_DTYPE = "float16"
"""Type that is measured at all batches; other types at one batch."""
BATCHES, ONE_BATCH = (1, 8, 64), (8,)
Call = Callable[[Sequence[Tensor]], Tensor]


def rows() -> dict[str, tuple[OpSpec, LayerShape, str, int]]:
    """Return op, shape, type and batch of every row, by ID."""
    return {
        "-".join([spec.name, shape.name.replace(" ", "-"), dtype, "batch", str(batch)]): (
            spec,
            shape,
            dtype,
            batch,
        )
        for spec in OPS.values()
        for shape in spec.benched
        for dtype in spec.limits.dtypes
        for batch in (BATCHES if dtype == ENGINE_DTYPE else ONE_BATCH)
    }


def same(dtype: str) -> float:
    """Return the accepted difference of implementations: both round, and PyTorch can use TF32."""
    if dtype == "float32":
        return PRECISIONS["tf32"].budget
    return 2 * precision_of(dtype).budget


def compiled(name: str, run: Call, mode: str = device.COMPILE_MODE) -> dict[str, Call]:
    """Compile a baseline without CUDA graphs, because the clock captures a graph for all runs.

    There is none if the compile mode of the benchmarks is "none".
    """
    if device.COMPILE_MODE == "none":
        return {}
    return {name: run if device.REHEARSED else torch.compile(run, mode=mode, dynamic=False)}


def stock_attention(shape: LayerShape, dtype: str, tensors: Sequence[Tensor]) -> dict[str, Call]:
    """Return baselines with scaled_dot_product_attention per octave."""
    stock = StockAttention(
        *tensors[1:],
        h=shape.side,
        w=shape.side,
        window=shape.window,
        shift=shape.shift,
        dtype=DTYPES[dtype],
    )

    def sdpa(args: Sequence[Tensor]) -> Tensor:
        return stock(args[0])

    # Its products are library calls, so the default mode is sufficient.
    return {"sdpa": sdpa, **compiled("sdpa-compile", sdpa, "default")}


def unfused_attention(shape: LayerShape, dtype: str, tensors: Sequence[Tensor]) -> dict[str, Call]:
    """Return the attention half of a block with the kernel of window_attention."""

    def unfused(args: Sequence[Tensor]) -> Tensor:
        x, norm_weight, norm_bias, qkv_weight, qkv_bias, weight, bias, *scores = args
        y = layer_norm_reference(x, norm_weight, norm_bias, LAYER_NORM_EPS)
        qkv = F.linear(y, qkv_weight, qkv_bias)
        attended = window_attention(
            qkv, *scores, window=shape.window, shift=shape.shift, impl=device.kernels()
        )
        return x + F.linear(attended, weight, bias)

    return {"unfused": unfused}


def unfused_mlp(shape: LayerShape, dtype: str, tensors: Sequence[Tensor]) -> dict[str, Call]:
    """Return the MLP half of a block, layer by layer."""
    return {"unfused": lambda args: mlp_reference(*args, eps=LAYER_NORM_EPS)}


BASELINES: Mapping[str, Callable[[LayerShape, str, Sequence[Tensor]], dict[str, Call]]] = {
    "window_attention": stock_attention,
    "attention_block": unfused_attention,
    "mlp": unfused_mlp,
}
"""Further baselines by the name of the op."""


@torch.inference_mode()
def measure(
    spec: OpSpec, shape: LayerShape, dtype: str, batch: int
) -> tuple[KernelRow, Callable[[], None]]:
    """Check and time the kernel of an op and its baselines.

    Args:
        spec: spec of the op.
        shape: shape of the layer.
        dtype: torch's name of the type of the products.
        batch: slices per call.

    Returns:
        The row, and a function that calls the kernel once and waits for it.

    Raises:
        Inexact: the result of a baseline differs.
    """
    torch.compiler.reset()  # shapes are constants, and torch.compile has a limit of recompilations
    tensors = spec.arguments(shape, 1 if device.REHEARSED else batch, dtype, device.device())

    def eager(args: Sequence[Tensor]) -> Tensor:
        return spec.call(args, shape, "reference")

    def kernel(args: Sequence[Tensor]) -> Tensor:
        return spec.call(args, shape, device.kernels())

    more = BASELINES[spec.name](shape, dtype, tensors) if spec.name in BASELINES else {}
    runs = {"eager": eager, **compiled("compile", eager), **more, "kernel": kernel}
    expected = eager(tensors).double().cpu().numpy()
    for name in set(more) & {"sdpa", "unfused"}:
        error = relative_error(runs[name](tensors).double().cpu().numpy(), expected)
        if not error <= same(dtype):
            raise Inexact(f"{name} is off by {error:.2g}, at most {same(dtype):.2g}")
    times = {name: milliseconds(run, tensors) for name, run in runs.items()}
    moved = spec.work(shape, batch, precision_of(dtype).item_size).bytes
    times["copy"] = copy_milliseconds(round(moved))
    row = KernelRow(
        op=spec.name,
        dtype=dtype,
        batch=batch,
        gpu=device.name(),
        ms=times,
        bytes=moved,
        percent_of_copy_bandwidth=100 * times["copy"] / times["kernel"],
        stage=int(shape.name.split()[1]) if "stage" in shape.name else None,
        layer=shape.linear or shape.spread,
        copy_bytes_per_second=moved / (times["copy"] / 1e3),
        shapes=tuple(tuple(tensor.shape) for tensor in tensors),
    )

    def once() -> None:
        if not device.REHEARSED:
            kernel(tensors)
            torch.cuda.synchronize()

    return row, once
