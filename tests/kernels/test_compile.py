"""Shipped launch configurations fit their GPUs; the kernels are compiled and not run."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from clinreadnet.kernels.compile import (
    SHARED_MEMORY,
    Case,
    attention_block_case,
    mlp_case,
    resources,
    sobel_stem_case,
    window_attention_case,
)

pytestmark = pytest.mark.compile
CAPABILITIES = [pytest.param(c, id=f"sm_{c}") for c in SHARED_MEMORY]
DTYPES = [
    pytest.param(dtype, id=str(dtype).removeprefix("torch."))
    for dtype in (torch.float32, torch.float16, torch.bfloat16)
]


def assert_fits(case: Case) -> None:
    taken = resources(case)
    assert taken.stack == 0, f"{taken.stack} bytes of registers spilled"
    assert 0 < taken.registers <= 255
    assert taken.shared <= SHARED_MEMORY[case.capability] * 1024


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_shipped_network_fits(capability: int, dtype: torch.dtype) -> None:
    assert_fits(sobel_stem_case(capability, 24, dtype))
    assert_fits(window_attention_case(capability, 8, 4, 16, 3, dtype))


@pytest.mark.parametrize("capability", [75, 80, 90, 120], ids=lambda c: f"sm_{c}")
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("c0", [16, 48], ids=["tiny", "base"])
def test_other_stems_fit(capability: int, dtype: torch.dtype, c0: int) -> None:
    assert_fits(sobel_stem_case(capability, c0, dtype))


@pytest.mark.parametrize("capability", [75, 80, 90, 120], ids=lambda c: f"sm_{c}")
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("window", [4, 5, 7, 11, 16], ids=lambda w: f"window-{w}")
def test_the_largest_attention_of_each_window_fits(
    capability: int, dtype: torch.dtype, window: int
) -> None:
    if capability < 80 and window > 8:
        pytest.skip("refused by window_attention")
    assert_fits(window_attention_case(capability, window, 2, 32, 4, dtype))


@pytest.mark.parametrize("capability", CAPABILITIES[1:])
@pytest.mark.parametrize(("channels", "heads"), [(48, 3), (96, 6)], ids=["stage-1", "stage-2"])
def test_the_fused_blocks_of_the_shipped_network_fit(
    capability: int, channels: int, heads: int
) -> None:
    assert_fits(attention_block_case(capability, channels, heads, 8, 4, 3, torch.float16))
    assert_fits(mlp_case(capability, channels, torch.float16))


@pytest.mark.parametrize("capability", [80, 90, 100, 120], ids=lambda c: f"sm_{c}")
def test_other_fused_blocks_fit(capability: int) -> None:
    assert_fits(mlp_case(capability, 48, torch.float32))
    assert_fits(mlp_case(capability, 96, torch.float32))
    assert_fits(attention_block_case(capability, 96, 3, 8, 4, 3, torch.bfloat16))  # of `base`


@pytest.mark.parametrize("capability", [75, 80, 90], ids=lambda c: f"sm_{c}")
def test_tf32_fits_and_is_another_kernel(capability: int) -> None:
    full = window_attention_case(capability, 8, 4, 16, 3, torch.float32)
    torch.set_float32_matmul_precision("high")
    try:
        case = window_attention_case(capability, 8, 4, 16, 3, torch.float32)
        assert_fits(sobel_stem_case(capability, 24, torch.float32))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (full.constants["PRECISION"], case.constants["PRECISION"]) == ("tf32x3", "tf32")
    assert_fits(case)


def test_a_spill_is_seen() -> None:
    """Twice the rows of the shipped tile do not fit."""
    case = window_attention_case(80, 11, 2, 32, 4, torch.float32)
    case.constants["BLOCK_M"] *= 2
    assert resources(case).stack > 0
