"""The reference against the float64 oracle, and what the public function refuses."""

import pytest
import torch
from support.oracles import fused_linear_oracle

from clinreadnet.kernels import fused_linear
from clinreadnet.kernels.ptx.inputs import fused_linear_inputs


@pytest.mark.parametrize("gelu", [False, True], ids=["linear", "gelu"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("shape", [(1, 48), (3, 2, 5, 6)], ids=["one-token", "odd-batch"])
def test_equals_the_oracle(shape: tuple[int, ...], residual: bool, norm: bool, gelu: bool) -> None:
    args = fused_linear_inputs(*shape, outputs=20, norm=norm, residual=residual)
    expected = fused_linear_oracle(**args, gelu=gelu)
    torch.testing.assert_close(fused_linear(**args, gelu=gelu), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("shape", [(1, 2, 2, 5), (3, 4, 6, 7)], ids=["one-token", "h-not-w"])
def test_merges_2x2_tokens_as_the_oracle(shape: tuple[int, ...], norm: bool) -> None:
    args = fused_linear_inputs(*shape, outputs=20, norm=norm, residual=True, merge=True)
    expected = fused_linear_oracle(**args, gelu=True, merge=True)
    actual = fused_linear(**args, gelu=True, merge=True)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 4, 8), (1, 2, 3, 8), (1, 3, 2, 8)])
def test_only_maps_of_even_sides_are_merged(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"is not \[B, H, W, C / 4\] with H and W even"):
        fused_linear(torch.zeros(shape), torch.zeros(20, 32), merge=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"x": ()}, r"are not \[..., C\]", id="scalar"),
        pytest.param({"x": (2, 9)}, r"x \[2, 9\] are not", id="channels"),
        pytest.param({"weight": (20,)}, r"\[N, C\]", id="vector"),
        pytest.param({"weight": (8, 20)}, r"\[8, 20\].* are not .*\[8, 8\]", id="transposed"),
        pytest.param({"bias": (8,)}, r"\[8\].* are not .*\[20\]", id="bias"),
        pytest.param({"norm_bias": (20,)}, r"\[20\]\] after .* are not", id="norm"),
        pytest.param({"norm_weight": None}, "given together or not at all", id="half-a-norm"),
        pytest.param({"residual": (2, 8)}, r"residual \[2, 8\] is not \[2, 20\]", id="residual"),
        pytest.param({"impl": "cuda"}, "impl='cuda'", id="implementation"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    kwargs: dict = fused_linear_inputs(2, 8, outputs=20, norm=True, residual=True)
    for name, value in change.items():
        kwargs[name] = torch.zeros(value) if isinstance(value, tuple) else value
    with pytest.raises(ValueError, match="fused_linear: .*" + message):
        fused_linear(**kwargs)
