"""The reference against the float64 oracle, and what the public function refuses."""

import pytest
import torch
from support.oracles import attention_block_oracle

from clinreadnet.kernels import attention_block
from clinreadnet.kernels.ptx.inputs import attention_block_inputs

NAMES = (
    "x norm_weight norm_bias qkv_weight qkv_bias projection_weight projection_bias position_bias "
    "inv_temperature gates"
).split()


@pytest.mark.parametrize(
    ("shape", "c", "heads", "window", "shift"),
    [
        pytest.param((1, 4, 4), 48, 3, 4, 0, id="one-window"),
        pytest.param((3, 8, 12), 8, 2, 4, 1, id="odd-batch-h-not-w-shifted"),
    ],
)
def test_equals_the_oracle(
    shape: tuple[int, int, int], c: int, heads: int, window: int, shift: int
) -> None:
    args = attention_block_inputs(*shape, c, heads, window, octaves=3)
    expected = attention_block_oracle(*args, window=window, shift=shift)
    actual = attention_block(*args, window=window, shift=shift)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"x": (1, 9, 8, 8)}, "not multiples of window=4", id="h-not-a-multiple"),
        pytest.param({"x": (8, 8, 8)}, r"is not \[B, H, W, C\]", id="three-dimensions"),
        pytest.param({"x": (1, 8, 8, 9)}, "not a multiple of 2 heads", id="channels"),
        pytest.param({"norm_bias": (9,)}, r"\[9\].* are not ", id="norm"),
        pytest.param({"qkv_weight": (8, 24)}, r"\[8, 24\].* are not .*\[24, 8\]", id="transposed"),
        pytest.param({"position_bias": (2, 16, 15)}, r"\[2, 16, 15\]", id="position-bias"),
        pytest.param({"inv_temperature": (3,)}, r"\[3\]", id="temperature"),
        pytest.param({"gates": (2,)}, "gates", id="gates"),
        pytest.param({"shift": 4}, "shift=4", id="shift"),
        pytest.param({"impl": "cuda"}, "impl='cuda'", id="implementation"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    kwargs: dict = dict(zip(NAMES, attention_block_inputs(1, 8, 8, 8, 2, 4, 3), strict=True))
    kwargs |= {"window": 4, "shift": 2}
    for name, value in change.items():
        kwargs[name] = torch.zeros(value) if isinstance(value, tuple) else value
    with pytest.raises(ValueError, match="attention_block: .*" + message):
        attention_block(**kwargs)
