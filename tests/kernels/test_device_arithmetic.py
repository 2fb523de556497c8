"""The emulated arithmetic of tensor cores is correct where checked, and strict enough."""

import pytest
import torch
import torch.nn.functional as F
from support.oracles import window_attention_oracle

from clinreadnet.kernels import window_attention
from clinreadnet.kernels.ptx.device_arithmetic import (
    DeviceArithmetic,
    accumulate,
    convolution,
    tf32,
    tf32x3,
    truncated,
)
from clinreadnet.kernels.ptx.inputs import window_attention_inputs


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm()).item()


def operands() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(3, 32, 64, generator=generator),
        torch.randn(3, 64, 16, generator=generator),
    )


def test_tf32_rounds_to_ten_bits_ties_away() -> None:
    x = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 2**-12, -1 - 2**-11, 3e38])
    expected = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-10, 1.0, -1 - 2**-10, 3e38])
    assert torch.equal(tf32(x)[:5], expected[:5])
    assert abs(tf32(x)[5] / x[5] - 1) <= 2**-11


def test_sums_are_cut_towards_zero() -> None:
    x = torch.tensor([1 + 2**-24 + 2**-25, -1 - 2**-24 - 2**-25, 1.0, 0.0], dtype=torch.float64)
    assert truncated(x).tolist() == [1.0, -1.0, 1.0, 0.0]


def test_three_products_are_nearly_float32_and_one_is_not() -> None:
    a, b = operands()
    exact = a.double() @ b.double()
    single = accumulate(torch.zeros(3, 32, 16), tf32(a), tf32(b))
    assert error(a @ b, exact) < error(tf32x3(a, b), exact) < 2.0**-20
    assert error(single, exact) > 2.0**-13


def test_the_mode_replaces_float32_products_alone() -> None:
    a, b = operands()
    x, weight = torch.randn(2, 4, 7, 10), torch.randn(5, 4, 3, 3)
    with DeviceArithmetic():
        assert torch.equal(a @ b, tf32x3(a, b))
        assert torch.equal(a.double() @ b.double(), torch.matmul(a.double(), b.double()))
        assert torch.equal(F.linear(a, b[0].t()), tf32x3(a, b[0]))
        power = a.exp()
        convolved = F.conv2d(x, weight, torch.ones(5), stride=2, padding=1)
    assert 2.0**-23 < error(power, a.double().exp()) < 2.0**-21
    expected = F.conv2d(x.double(), weight.double(), torch.ones(5).double(), stride=2, padding=1)
    torch.testing.assert_close(convolved.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(convolved, convolution(x, weight, torch.ones(5), stride=2, padding=1))


@pytest.mark.parametrize("shift", [0, 4])
def test_a_kernel_in_single_tf32_does_not_keep_the_budget(
    monkeypatch: pytest.MonkeyPatch, within_budget, shift: int
) -> None:
    """The budget of a device is narrow enough to detect this fault."""
    args = [tensor.float() for tensor in window_attention_inputs(1, 8, 16, 2, 16, 8, 3)]
    where = {"window": 8, "shift": shift}
    expected = window_attention_oracle(*args, **where)
    plain = window_attention(*args, **where, impl="reference")
    with DeviceArithmetic():
        reference = window_attention(*args, **where, impl="reference")
    within_budget(plain, reference, expected)

    def single(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return accumulate(torch.zeros((*a.shape[:-1], b.shape[-1])), tf32(a), tf32(b))

    monkeypatch.setattr("clinreadnet.kernels.ptx.device_arithmetic.tf32x3", single)
    with DeviceArithmetic():
        faulty = window_attention(*args, **where, impl="reference")
    with pytest.raises(AssertionError):
        within_budget(faulty, reference, expected)
