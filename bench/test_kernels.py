"""Each op on this machine's GPU: its kernel against what PyTorch alone can do.

Baselines: the reference eager, the reference under torch.compile max-autotune; for attention one
scaled_dot_product_attention for each octave on partitioned windows, eager and compiled; for the
fused halves of a block the same half unfused, on the other kernels. All run in CUDA graphs with
cold caches (`cuda_clock`). Bytes are those that an op must read and write once; percent is of what
a copy on the device reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.measure.cuda_clock import copy_bandwidth, milliseconds
from bench.studies.stock_attention import StockAttention
from clinreadnet.kernels import attention_block, mlp, sobel_stem, window_attention
from clinreadnet.metrics import relative_error
from clinreadnet.model.network import Block, ClinReadNetConfig
from clinreadnet.precision import PRECISIONS

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine"
)
# float16 is what engines run in; the other dtypes stand at one batch.
SIZES = [
    pytest.param(dtype, batch, id=f"{str(dtype).removeprefix('torch.')}-batch-{batch}")
    for dtype, batches in (
        (torch.float16, (1, 8, 64)),
        (torch.float32, (8,)),
        (torch.bfloat16, (8,)),
    )
    for batch in batches
]
# Both sides round, and PyTorch may take TF32 for float32.
SAME = {
    torch.float32: PRECISIONS["tf32"].budget,
    torch.float16: 2 * PRECISIONS["fp16"].budget,
    torch.bfloat16: 2 * PRECISIONS["bf16"].budget,
}
Run = Callable[[Sequence[Tensor]], Tensor]


@pytest.fixture(scope="module")
def bandwidth() -> float:
    return copy_bandwidth()


@pytest.fixture(autouse=True)
def no_compiled_graphs() -> None:
    """Shapes are constants, and torch.compile gives up after a few sets of them."""
    torch.compiler.reset()


def compiled(run: Run, mode: str = "max-autotune-no-cudagraphs") -> Run:
    """Without CUDA graphs of its own: the clock captures one, for all runs alike."""
    return torch.compile(run, mode=mode, dynamic=False)


def compare(
    benchmark: BenchmarkFixture,
    runs: dict[str, Run],
    tensors: Sequence[Tensor],
    bandwidth: float,
    **facts: object,
) -> None:
    times = {name: milliseconds(run, tensors) for name, run in runs.items()}
    kernel = runs["kernel"]

    def once() -> None:
        kernel(tensors)
        torch.cuda.synchronize()

    benchmark.pedantic(once, rounds=20, warmup_rounds=2)
    moved = sum(tensor.nbytes for tensor in [*tensors, kernel(tensors)])
    benchmark.extra_info |= facts | {
        "gpu": torch.cuda.get_device_properties(0).name,
        "shapes": [list(tensor.shape) for tensor in tensors],
        "ms": times,
        "bytes": moved,
        "copy_bytes_per_second": bandwidth,
        "percent_of_copy_bandwidth": 100 * moved / (times["kernel"] / 1e3) / bandwidth,
    }
    print(
        "\n" + ", ".join(f"{name} {ms:.4f} ms" for name, ms in times.items()),
        f"{benchmark.extra_info['percent_of_copy_bandwidth']:.0f} % of a copy's bandwidth",
        sep="; ",
    )


@pytest.mark.parametrize(("dtype", "batch"), SIZES)
@torch.inference_mode()
def test_sobel_stem(
    benchmark: BenchmarkFixture, bandwidth: float, batch: int, dtype: torch.dtype
) -> None:
    tensors = [
        torch.rand(batch, 1, 512, 512, device="cuda"),
        torch.randn(24, 4, 3, 3, device="cuda", dtype=dtype),
        torch.randn(24, device="cuda", dtype=dtype),
    ]

    def eager(args: Sequence[Tensor]) -> Tensor:
        return sobel_stem(*args, impl="reference")

    runs = {
        "eager": eager,
        "compile": compiled(eager),
        "kernel": lambda args: sobel_stem(*args, impl="triton"),
    }
    facts = {"op": "sobel_stem", "dtype": str(dtype).removeprefix("torch."), "batch": batch}
    compare(benchmark, runs, tensors, bandwidth, **facts)


@pytest.mark.parametrize(("dtype", "batch"), SIZES)
@pytest.mark.parametrize("stage", [1, 2, 3, 4], ids=lambda stage: f"stage-{stage}")
@torch.inference_mode()
def test_window_attention(
    benchmark: BenchmarkFixture, bandwidth: float, stage: int, batch: int, dtype: torch.dtype
) -> None:
    """The shifted blocks of the preset ``small``."""
    side, heads = 256 >> stage, 3 << (stage - 1)
    where = {"window": 8, "shift": 4}
    tensors = [
        torch.randn(batch, side, side, 3 * 16 * heads, device="cuda", dtype=dtype),
        torch.randn(heads, 64, 64, device="cuda"),
        torch.rand(heads, device="cuda") + 0.5,
        torch.full((heads, 3), 1 / 3, device="cuda"),
    ]
    stock = StockAttention(*tensors[1:], h=side, w=side, dtype=dtype, **where)

    def eager(args: Sequence[Tensor]) -> Tensor:
        return window_attention(*args, **where, impl="reference")

    def sdpa(args: Sequence[Tensor]) -> Tensor:
        return stock(args[0])

    ours, stocks = (run(tensors).double().cpu().numpy() for run in (eager, sdpa))
    assert relative_error(stocks, ours) <= SAME[dtype]
    runs = {
        "eager": eager,
        "sdpa": sdpa,
        "compile": compiled(eager),
        "sdpa-compile": compiled(sdpa, "default"),  # its products are in a library
        "kernel": lambda args: window_attention(*args, **where, impl="triton"),
    }
    facts = {
        "op": "window_attention",
        "stage": stage,
        "dtype": str(dtype).removeprefix("torch."),
        "batch": batch,
    }
    compare(benchmark, runs, tensors, bandwidth, **facts)


FUSED_SIZES = pytest.mark.parametrize(
    ("dtype", "batch"), [size for size in SIZES if size.values[0] != torch.float32]
)


def block_and_input(stage: int, batch: int, dtype: torch.dtype) -> tuple[Block, Tensor]:
    """A shifted block of the preset ``small``, and what enters it."""
    side, channels = 256 >> stage, 24 << stage
    block = Block(channels, channels // 16, 4, ClinReadNetConfig(), "triton")
    x = torch.randn(batch, side, side, channels, device="cuda", dtype=dtype)
    return block.to("cuda", dtype), x


@FUSED_SIZES
@pytest.mark.parametrize("stage", [1, 2], ids=lambda stage: f"stage-{stage}")
@torch.inference_mode()
def test_attention_block(
    benchmark: BenchmarkFixture, bandwidth: float, stage: int, batch: int, dtype: torch.dtype
) -> None:
    block, x = block_and_input(stage, batch, dtype)
    where = {"window": 8, "shift": 4}
    qkv, projection = block.attention.qkv, block.attention.projection
    layers = [p for m in (block.norm1, qkv, projection) for p in m.parameters()]
    tensors = [x, *layers, *block.attention.score_parameters(dtype)]

    def eager(args: Sequence[Tensor]) -> Tensor:
        return attention_block(*args, **where, impl="reference")

    def unfused(args: Sequence[Tensor]) -> Tensor:
        x = args[0]
        attended = window_attention(qkv(block.norm1(x)), *args[7:], **where, impl="triton")
        return x + projection(attended)

    runs = {
        "eager": eager,
        "compile": compiled(eager),
        "unfused": unfused,
        "kernel": lambda args: attention_block(*args, **where, impl="triton"),
    }
    facts = {
        "op": "attention_block",
        "stage": stage,
        "dtype": str(dtype).removeprefix("torch."),
        "batch": batch,
    }
    compare(benchmark, runs, tensors, bandwidth, **facts)


@pytest.mark.parametrize(("dtype", "batch"), SIZES)
@pytest.mark.parametrize("stage", [1, 2], ids=lambda stage: f"stage-{stage}")
@torch.inference_mode()
def test_mlp(
    benchmark: BenchmarkFixture, bandwidth: float, stage: int, batch: int, dtype: torch.dtype
) -> None:
    block, x = block_and_input(stage, batch, dtype)
    tensors = [x, *block.norm2.parameters(), *block.mlp.parameters()]

    def eager(args: Sequence[Tensor]) -> Tensor:
        return mlp(*args, impl="reference")

    runs = {
        "eager": eager,
        "compile": compiled(eager),
        "unfused": lambda args: args[0] + block.mlp(block.norm2(args[0])),
        "kernel": lambda args: mlp(*args, impl="triton"),
    }
    facts = {
        "op": "mlp",
        "stage": stage,
        "dtype": str(dtype).removeprefix("torch."),
        "batch": batch,
    }
    compare(benchmark, runs, tensors, bandwidth, **facts)
