"""Kernel of each op on this machine's GPU against PyTorch baselines."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measure import device
from bench.sweeps.kernels import measure, rows
from clinreadnet.kernels.spec import LayerShape, OpSpec

pytestmark = pytest.mark.skipif(not device.is_there(), reason="no NVIDIA GPU on this machine")


@pytest.mark.parametrize(
    ("spec", "shape", "dtype", "batch"), list(rows().values()), ids=list(rows())
)
def test_kernels(
    benchmark: BenchmarkFixture, spec: OpSpec, shape: LayerShape, dtype: str, batch: int
) -> None:
    row, once = measure(spec, shape, dtype, batch)
    benchmark.pedantic(once, rounds=20, warmup_rounds=2)
    benchmark.extra_info |= row.to_json()
    print(
        "\n" + ", ".join(f"{name} {ms:.4f} ms" for name, ms in row.ms.items()),
        f"{row.percent_of_copy_bandwidth:.0f} % of a copy's bandwidth",
        sep="; ",
    )
