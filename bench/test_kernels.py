"""The kernels against the reference in eager PyTorch, on this machine's GPU.

Each benchmark times the reference first and the kernel second, with CUDA events. Bandwidth counts
what an op must read and write once, over that of a device-to-device copy of 256 MiB.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from clinreadnet.kernels import Impl, sobel_stem, window_attention

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
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for start, end in events:
        start.record()
        run()
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
    op: Callable[[Impl], Tensor],
    inputs: list[Tensor],
    copy_bandwidth: float,
) -> None:
    reference = milliseconds(lambda: op("reference"))
    ours = milliseconds(lambda: op("triton"))

    def run() -> None:
        op("triton")
        torch.cuda.synchronize()

    benchmark.pedantic(run, rounds=20, warmup_rounds=2)
    moved = sum(t.numel() * t.element_size() for t in [*inputs, op("triton")])
    properties = torch.cuda.get_device_properties(0)
    benchmark.extra_info |= {
        "gpu": properties.name,
        "torch": torch.__version__,
        "shapes": [list(tensor.shape) for tensor in inputs],
        "reference_ms": reference,
        "kernel_ms": ours,
        "ratio": reference / ours,
        "bytes": moved,
        "percent_of_copy_bandwidth": 100 * moved / (ours / 1e3) / copy_bandwidth,
    }
    print(
        f"\nreference {reference:.3f} ms, kernel {ours:.3f} ms, {reference / ours:.1f}x,"
        f" {benchmark.extra_info['percent_of_copy_bandwidth']:.0f} % of a copy's bandwidth"
    )


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
    compare(benchmark, lambda impl: sobel_stem(*args, impl=impl), args, copy_bandwidth)


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

    compare(benchmark, op, args, copy_bandwidth)
