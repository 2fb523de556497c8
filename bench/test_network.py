"""The whole network `small` in float16 on this machine's GPU: with its kernels and without.

Both are compiled with max-autotune and captured in a CUDA graph; the eager reference stands beside
them. Input and weights are on the device before the clock starts.
"""

from __future__ import annotations

import pytest
import torch
from cuda_clock import milliseconds
from pytest_benchmark.fixture import BenchmarkFixture

from clinreadnet.model import ClinReadNet, ClinReadNetConfig
from clinreadnet.runtime.parity import BUDGETS, relative_error

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine"
)


def network(kernels: str) -> ClinReadNet:
    torch.manual_seed(0)
    return ClinReadNet(ClinReadNetConfig(), kernels=kernels).half().cuda().eval()


@pytest.mark.parametrize("batch", [1, 64], ids=["batch-1", "batch-64"])
@torch.inference_mode()
def test_network(benchmark: BenchmarkFixture, batch: int) -> None:
    hu = torch.randn(batch, 1, 512, 512, device="cuda") * 300
    models = {"eager": network("reference"), "kernel-eager": network("triton")}
    torch.compiler.reset()
    for name, kernels in (("compile", "reference"), ("kernel", "triton")):
        models[name] = torch.compile(
            network(kernels), mode="max-autotune-no-cudagraphs", dynamic=False
        )
    right = models["eager"](hu).score.double().cpu().numpy()
    for model in models.values():
        score = model(hu).score.double().cpu().numpy()
        # Both sides round to float16.
        assert relative_error(score, right) <= 2 * BUDGETS["fp16"]
    times = {
        name: milliseconds(lambda args, model=model: model(args[0]).score, [hu], calls=1)
        for name, model in models.items()
    }

    def once() -> None:
        models["kernel"](hu)
        torch.cuda.synchronize()

    benchmark.pedantic(once, rounds=10, warmup_rounds=1)
    benchmark.extra_info |= {
        "gpu": torch.cuda.get_device_properties(0).name,
        "op": "network",
        "dtype": "float16",
        "batch": batch,
        "ms": times,
        "slices_per_second": {name: batch / ms * 1e3 for name, ms in times.items()},
    }
    print("\n" + ", ".join(f"{name} {ms:.3f} ms" for name, ms in times.items()))
