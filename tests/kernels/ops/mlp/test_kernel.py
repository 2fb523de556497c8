"""The Triton kernel against the float64 oracle, in the interpreter or on a GPU."""

from collections.abc import Sequence

import pytest
import torch
from support.kernel_tests import (
    DEVICES,
    NEEDS_TRITON,
    assert_gradients_are_the_references,
    by_dtype,
    skip_wrong_products,
)
from support.oracles import mlp_oracle
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from clinreadnet.kernels import mlp
from clinreadnet.kernels.ptx.device_arithmetic import arithmetic_of
from clinreadnet.kernels.ptx.inputs import mlp_inputs

pytestmark = NEEDS_TRITON
DTYPES = by_dtype(torch.float32, torch.float16, torch.bfloat16)


def rounded(args: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [tensor.to(dtype) for tensor in args]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "hidden"),
    [
        pytest.param((1, 48), 192, id="one-token"),
        pytest.param((3, 5, 9, 48), 192, id="odd-batch-over-the-tile"),
        pytest.param((2, 32, 96), 384, id="96-channels-whole-tiles"),
        pytest.param((7, 48), 40, id="hidden-over-the-chunk"),
    ],
)
def test_within_budget(
    poisoned,
    within_budget,
    count_launches,
    device: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    hidden: int,
) -> None:
    skip_wrong_products(device, dtype)
    from clinreadnet.kernels.ops.mlp import kernel as mlp_triton

    launches = count_launches(mlp_triton)
    args = rounded(mlp_inputs(*shape, hidden=hidden), dtype)
    expected = mlp_oracle(*args)
    actual = mlp(*(a.to(device) for a in args), impl="triton")
    assert len(launches) == 1
    with arithmetic_of(device):
        reference = mlp(*args, impl="reference")
    within_budget(actual, reference, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        pytest.param("x", 0.7, id="constant-input"),
        pytest.param("x", 6e4, id="constant-near-the-largest-half"),
        pytest.param("fc1_bias", 1e4, id="huge-hidden"),
        pytest.param("fc1_bias", -1e4, id="dead-hidden"),
    ],
)
def test_extremes(
    poisoned, within_budget, device: str, dtype: torch.dtype, argument: str, value: float
) -> None:
    """A constant has no variance, and its square no half; only epsilon is left to divide by."""
    args = rounded(mlp_inputs(5, 48, hidden=48), dtype)
    place = {"x": 0, "fc1_bias": 4}[argument]
    args[place] = torch.full_like(args[place], value)
    expected = mlp_oracle(*args)
    actual = mlp(*(a.to(device) for a in args), impl="triton")
    assert actual.isfinite().all()
    with arithmetic_of(device):
        reference = mlp(*args, impl="reference")
    within_budget(actual, reference, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_eps_reaches_the_kernel(device: str) -> None:
    args = [a.to(device) for a in rounded(mlp_inputs(5, 48, hidden=48), torch.float32)]
    out = mlp(*args, eps=1.0, impl="triton")
    torch.testing.assert_close(out, mlp(*args, eps=1.0, impl="reference"))
    assert not torch.allclose(out, mlp(*args, impl="triton"))


@pytest.mark.parametrize("device", DEVICES)
def test_parameters_may_have_any_strides(device: str) -> None:
    args = [a.to(device) for a in rounded(mlp_inputs(5, 48, hidden=48), torch.float32)]
    expected = mlp(*args, impl="triton")
    for i in (3, 5):
        args[i] = args[i].t().contiguous().t()
    assert torch.equal(mlp(*args, impl="triton"), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("needed", [range(7), [0], [3, 6]], ids=["all", "x", "some"])
def test_gradients_are_the_references(device: str, needed: Sequence[int]) -> None:
    args = rounded(mlp_inputs(3, 5, 48, hidden=80), torch.float32)
    assert_gradients_are_the_references(mlp, args, needed, device)


@pytest.mark.interpret
def test_empty_batch() -> None:
    args = rounded(mlp_inputs(0, 4, 48, hidden=48), torch.float32)
    assert mlp(*args, impl="triton").shape == (0, 4, 48)


@pytest.mark.interpret
def test_registrations_agree() -> None:
    from clinreadnet.kernels.ops.mlp.kernel import mlp_op

    args = rounded(mlp_inputs(3, 5, 48, hidden=80), torch.float32)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for op_args in (args, [a.requires_grad_() for a in args]):
        torch.library.opcheck(mlp_op, op_args, {"eps": 1e-5}, test_utils=checks)


def test_the_op_on_the_cpu_is_the_reference() -> None:
    from clinreadnet.kernels.ops.mlp.kernel import mlp_op

    args = rounded(mlp_inputs(3, 5, 48, hidden=80), torch.float32)
    assert torch.equal(mlp_op(*args, eps=1e-5), mlp(*args, impl="reference"))


@pytest.mark.parametrize(
    ("channels", "change", "message"),
    [
        pytest.param(48, {}, "needs CUDA tensors, not cpu", id="cpu"),
        pytest.param(48, {0: torch.float64}, "not torch.float64", id="float64"),
        pytest.param(
            48,
            {4: torch.float16},
            "in the dtype of x, torch.float32, not torch.float16, torch.float32",
            id="mixed",
        ),
        pytest.param(48, {0: None}, "contiguous x", id="transposed"),
        pytest.param(64, {}, "48 or 96 channels, not 64", id="channels"),
    ],
)
def test_triton_outside_its_limits_is_refused(
    channels: int, change: dict[int, torch.dtype | None], message: str
) -> None:
    args = rounded(mlp_inputs(2, 3, channels, hidden=48), torch.float32)
    for i, dtype in change.items():
        args[i] = args[i].transpose(0, 1) if dtype is None else args[i].to(dtype)
    with pytest.raises(ValueError, match=message):
        mlp(*args, impl="triton")


def test_refused_before_compute_capability_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinreadnet.kernels.dispatch.gpu_of", lambda device: ("T4", 75))
    args = rounded(mlp_inputs(5, 48, hidden=48), torch.float16)
    with FakeTensorMode():
        args = [torch.empty(a.shape, dtype=a.dtype, device="cuda") for a in args]
        with pytest.raises(ValueError, match="needs compute capability 8.0 or later, not 7.5"):
            mlp(*args, impl="triton")
