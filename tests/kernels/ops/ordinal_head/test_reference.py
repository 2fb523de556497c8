"""The reference against the float64 oracle, and what the public function refuses."""

import pytest
import torch
from support.oracles import ordinal_head_oracle

from clinreadnet.kernels import ordinal_head
from clinreadnet.kernels.ptx.inputs import ordinal_head_inputs


@pytest.mark.parametrize("count", [5, 21])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (3, 7)], ids=["one-token", "odd-batch"])
def test_equals_the_oracle(batch: int, tokens: int, count: int) -> None:
    args = ordinal_head_inputs(batch, tokens, count, first=24, features=10)
    expected = ordinal_head_oracle(*args)
    torch.testing.assert_close(ordinal_head(*args), expected, rtol=1e-12, atol=1e-12)


def test_half_precision_is_computed_in_float32() -> None:
    x, *parameters = ordinal_head_inputs(2, 5, 21, first=32, features=8)
    parameters = [tensor.float() for tensor in parameters]
    out = ordinal_head(x.half(), *parameters)
    assert out.dtype == torch.float32
    assert torch.equal(out, ordinal_head(x.half().float(), *parameters))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({0: (2, 40)}, r"x \[2, 40\], .* are not \[B, N, F \+ D\]", id="two-sides"),
        pytest.param({0: (2, 0, 40)}, "with N > 0", id="no-token"),
        pytest.param({0: (2, 3, 29)}, "F > G", id="no-weight"),
        pytest.param({2: (8,)}, r"\[\[8\], \[\], \[21\]\] are not \[\[21\]", id="bias"),
        pytest.param({3: (1,)}, r"\[1\]", id="gain"),
        pytest.param({4: (5,)}, r"\[5\]\] are not", id="grades"),
    ],
)
def test_bad_arguments(change: dict[int, tuple[int, ...]], message: str) -> None:
    args = ordinal_head_inputs(2, 3, 21, first=32, features=8)
    for place, shape in change.items():
        args[place] = torch.zeros(shape)
    with pytest.raises(ValueError, match="ordinal_head: .*" + message):
        ordinal_head(*args)
