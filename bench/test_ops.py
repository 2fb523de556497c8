"""Each op of the network `small` on the processor: one slice, PyTorch, float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.run import TimedRow, Timing

torch = pytest.importorskip("torch", reason="needs PyTorch")

from bench.sweeps.ops import NAMES, measure  # noqa: E402

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="on a GPU, test_kernels.py measures the ops"
)


@pytest.mark.parametrize("name", NAMES)
def test_ops(
    name: str, rates: dict[str, float], timing: Timing, record: Callable[[TimedRow], None]
) -> None:
    record(measure(name, rates, timing))
