"""Shipped launch configurations fit their GPUs; the kernels are compiled and not run.

`make test` compiles every sixth of the network's kernels: each kernel in each type, and each
architecture; `make test-all` compiles all of them.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from clinreadnet.kernels.compile import SHARED_MEMORY, resources
from clinreadnet.kernels.ops.window_attention.spec import largest
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import STAGES, STEM, Case, LayerShape, OpSpec

pytestmark = pytest.mark.compile
CAPABILITIES = [pytest.param(c, id=f"sm_{c}") for c in SHARED_MEMORY]


def shapes(field: str) -> list[Any]:
    """Yield every op with its shapes of one kind, in every type that it takes."""
    return [
        pytest.param(spec, dtype, shape, id=f"{spec.name}-{dtype}-{shape.name}".replace(" ", "-"))
        for spec in OPS.values()
        for shape in getattr(spec, field)
        for dtype in spec.limits.dtypes
    ]


def assert_fits(case: Case | None) -> None:
    if case is None:
        pytest.skip("refused by the op")
    taken = resources(case)
    assert not taken.spills, f"{taken.stack} bytes of registers spilled"
    assert 0 < taken.registers <= 255
    assert taken.shared <= SHARED_MEMORY[case.capability] * 1024


@pytest.mark.sample(every=25)
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(("spec", "dtype", "shape"), shapes("compiled"))
def test_the_shipped_network_fits(
    spec: OpSpec, dtype: str, shape: LayerShape, capability: int
) -> None:
    assert_fits(spec.case(capability, dtype, shape))


@pytest.mark.sample(every=13)
@pytest.mark.parametrize("capability", [75, 80, 90, 120], ids=lambda c: f"sm_{c}")
@pytest.mark.parametrize(
    ("spec", "dtype", "shape"), [p for p in shapes("extremes") if "bfloat16" not in p.id]
)
def test_what_needs_most_of_a_gpu_fits(
    spec: OpSpec, dtype: str, shape: LayerShape, capability: int
) -> None:
    assert_fits(spec.case(capability, dtype, shape))


@pytest.mark.parametrize("capability", [80, 90, 100, 120], ids=lambda c: f"sm_{c}")
def test_the_fused_block_of_the_preset_base_fits(capability: int) -> None:
    (shape,) = OPS["attention_block"].extremes
    assert_fits(OPS["attention_block"].case(capability, "bfloat16", shape))


@pytest.mark.parametrize("capability", [75, 80, 90], ids=lambda c: f"sm_{c}")
def test_tf32_fits_and_is_another_kernel(capability: int) -> None:
    def attention() -> Case:
        case = OPS["window_attention"].case(capability, "float32", STAGES[0])
        assert case is not None
        return case

    full = attention()
    torch.set_float32_matmul_precision("high")
    try:
        case = attention()
        assert_fits(OPS["sobel_stem"].case(capability, "float32", STEM))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (full.constants["PRECISION"], case.constants["PRECISION"]) == ("tf32x3", "tf32")
    assert_fits(case)


def test_a_spill_is_seen() -> None:
    """Twice the rows of the shipped tile do not fit."""
    case = OPS["window_attention"].case(80, "float32", largest(11, 2))
    assert case is not None
    wider = replace(case, constants=case.constants | {"BLOCK_M": 2 * case.constants["BLOCK_M"]})
    assert resources(wider).stack > 0
