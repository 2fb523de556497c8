"""The kernels against what they replace, on this machine's GPU.

Each benchmark times its baselines first and the kernel last, with CUDA events around the replay of
a CUDA graph, so that launching from Python costs none of them anything. `sobel_stem` and
`window_attention` are compared with their references in eager PyTorch; the fused halves of a block
with the same half unfused on the other kernels, and with torch.compile of the reference. Bandwidth
counts what an op must read and write once, over that of a device-to-device copy of 256 MiB.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from clinreadnet.kernels import Impl, attention_block, mlp, sobel_stem, window_attention
from clinreadnet.model import Block, ClinReadNetConfig

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine"
)
DTYPES = [
    pytest.param(dtype, id=str(dtype).removeprefix("torch."))
    for dtype in (torch.float32, torch.float16, torch.bfloat16)
]


def milliseconds(run: Callable[[], object], rounds: int = 50) -> float:
    """Median time on the GPU of one run."""
    for _ in range(5):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for start, end in events:
        start.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events)


@pytest.fixture(scope="module")
def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy."""
    source = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / milliseconds(lambda: target.copy_(source)) * 1e3


def compare(
    benchmark: BenchmarkFixture,
    kernel: Callable[[], Tensor],
    baselines: dict[str, Callable[[], Tensor]],
    inputs: list[Tensor],
    copy_bandwidth: float,
) -> None:
    """Record the time of ``kernel``, and of each of the ``baselines`` by name."""
    times = {name: milliseconds(baseline) for name, baseline in baselines.items()}
    ours = milliseconds(kernel)

    def run() -> None:
        kernel()
        torch.cuda.synchronize()

    benchmark.pedantic(run, rounds=20, warmup_rounds=2)
    moved = sum(t.numel() * t.element_size() for t in [*inputs, kernel()])
    properties = torch.cuda.get_device_properties(0)
    benchmark.extra_info |= {
        "gpu": properties.name,
        "torch": torch.__version__,
        "shapes": [list(tensor.shape) for tensor in inputs],
        "baseline_ms": times,
        "kernel_ms": ours,
        "ratio": {name: time / ours for name, time in times.items()},
        "bytes": moved,
        "percent_of_copy_bandwidth": 100 * moved / (ours / 1e3) / copy_bandwidth,
    }
    for name, time in times.items():
        print(f"\n{name} {time:.3f} ms, kernel {ours:.3f} ms, {time / ours:.1f}x", end="")
    print(f", {benchmark.extra_info['percent_of_copy_bandwidth']:.0f} % of a copy's bandwidth")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 16], ids=["batch-1", "batch-16"])
@torch.inference_mode()
def test_sobel_stem(
    benchmark: BenchmarkFixture, copy_bandwidth: float, batch: int, dtype: torch.dtype
) -> None:
    x = torch.rand(batch, 1, 512, 512, device="cuda")
    weight = torch.randn(24, 4, 3, 3, device="cuda", dtype=dtype)
    bias = torch.randn(24, device="cuda", dtype=dtype)
    args = [x, weight, bias]

    def op(impl: Impl) -> Tensor:
        return sobel_stem(*args, impl=impl)

    baselines = {"reference": lambda: op("reference")}
    compare(benchmark, lambda: op("triton"), baselines, args, copy_bandwidth)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 16], ids=["batch-1", "batch-16"])
@pytest.mark.parametrize("stage", range(4), ids=lambda i: f"stage-{i + 1}")
@torch.inference_mode()
def test_window_attention(
    benchmark: BenchmarkFixture, copy_bandwidth: float, stage: int, batch: int, dtype: torch.dtype
) -> None:
    """The shifted blocks of the preset ``small``."""
    side, heads = 128 >> stage, 3 << stage
    args = [
        torch.randn(batch, side, side, 3 * 16 * heads, device="cuda", dtype=dtype),
        torch.randn(heads, 64, 64, device="cuda"),
        torch.rand(heads, device="cuda") + 0.5,
        torch.full((heads, 3), 1 / 3, device="cuda"),
    ]

    def op(impl: Impl) -> Tensor:
        return window_attention(*args, window=8, shift=4, impl=impl)

    baselines = {"reference": lambda: op("reference")}
    compare(benchmark, lambda: op("triton"), baselines, args, copy_bandwidth)


BLOCKS = pytest.mark.parametrize(
    ("stage", "batch"),
    [
        pytest.param(stage, batch, id=f"stage-{stage + 1}-batch-{batch}")
        for stage in (0, 1)
        for batch in (1, 8, 64)
    ],
)


def block_and_input(stage: int, batch: int, dtype: torch.dtype) -> tuple[Block, Tensor]:
    """A shifted block of the preset ``small``, and what enters it."""
    block = Block(48 << stage, 3 << stage, 4, ClinReadNetConfig(), "triton")
    x = torch.randn(batch, 128 >> stage, 128 >> stage, 48 << stage, device="cuda", dtype=dtype)
    return block.to("cuda", dtype), x


def compiled(reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The reference as torch.compile makes it; ``milliseconds`` makes the CUDA graph."""
    torch.compiler.reset()
    return torch.compile(reference, mode="max-autotune-no-cudagraphs", fullgraph=True)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@BLOCKS
@torch.inference_mode()
def test_attention_block(
    benchmark: BenchmarkFixture, copy_bandwidth: float, stage: int, batch: int, dtype: torch.dtype
) -> None:
    block, x = block_and_input(stage, batch, dtype)
    layers = [
        p
        for m in (block.norm1, block.attention.qkv, block.attention.projection)
        for p in m.parameters()
    ]
    args = [x, *layers, *block.attention.score_parameters(dtype)]
    where = {"window": 8, "shift": 4}
    reference = compiled(partial(attention_block, **where, impl="reference"))
    qkv, projection = block.attention.qkv, block.attention.projection

    def unfused() -> Tensor:
        attended = window_attention(qkv(block.norm1(x)), *args[7:], **where, impl="triton")
        return x + projection(attended)

    baselines = {"unfused": unfused, "compiled": lambda: reference(*args)}
    kernel = partial(attention_block, *args, **where, impl="triton")
    compare(benchmark, kernel, baselines, args, copy_bandwidth)


@pytest.mark.parametrize("dtype", DTYPES)
@BLOCKS
@torch.inference_mode()
def test_mlp(
    benchmark: BenchmarkFixture, copy_bandwidth: float, stage: int, batch: int, dtype: torch.dtype
) -> None:
    block, x = block_and_input(stage, batch, dtype)
    args = [x, *block.norm2.parameters(), *block.mlp.parameters()]
    reference = compiled(partial(mlp, impl="reference"))
    baselines = {
        "unfused": lambda: x + block.mlp(block.norm2(x)),
        "compiled": lambda: reference(*args),
    }
    compare(benchmark, partial(mlp, *args, impl="triton"), baselines, args, copy_bandwidth)
