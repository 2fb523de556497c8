"""The reference against the float64 oracle, and what the public function refuses."""

import pytest
import torch
from support.oracles import mlp_oracle

from clinreadnet.kernels import mlp
from clinreadnet.kernels.ptx.inputs import mlp_inputs

NAMES = "x norm_weight norm_bias fc1_weight fc1_bias fc2_weight fc2_bias".split()


@pytest.mark.parametrize("shape", [(1, 48), (3, 2, 5, 6)], ids=["one-token", "odd-batch"])
def test_equals_the_oracle(shape: tuple[int, ...]) -> None:
    args = mlp_inputs(*shape, hidden=20)
    torch.testing.assert_close(mlp(*args), mlp_oracle(*args), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"x": ()}, r"are not \[..., C\]", id="scalar"),
        pytest.param({"x": (2, 9)}, r"x \[2, 9\] are not", id="channels"),
        pytest.param({"fc1_weight": (20,)}, r"\[hidden, C\]", id="vector"),
        pytest.param({"fc1_bias": (8,)}, r"\[8\].* are not ", id="bias"),
        pytest.param({"fc2_weight": (20, 8)}, r"\[20, 8\].* are not .*\[8, 20\]", id="transposed"),
        pytest.param({"impl": "cuda"}, "impl='cuda'", id="implementation"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    kwargs: dict = dict(zip(NAMES, mlp_inputs(2, 8, hidden=20), strict=True))
    for name, value in change.items():
        kwargs[name] = torch.zeros(value) if isinstance(value, tuple) else value
    with pytest.raises(ValueError, match="mlp: .*" + message):
        mlp(**kwargs)
