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
from support.oracles import attention_block_oracle
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from clinreadnet.kernels import attention_block
from clinreadnet.kernels.ptx.inputs import attention_block_inputs

pytestmark = NEEDS_TRITON
DTYPES = by_dtype(torch.float16, torch.bfloat16)


def rounded(args: list[Tensor], dtype: torch.dtype = torch.float16) -> list[Tensor]:
    """Return the op's inputs: tokens and layers in ``dtype``, the last three in float32."""
    return [tensor.to(dtype) for tensor in args[:7]] + [tensor.float() for tensor in args[7:]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "c", "heads", "window", "shift", "octaves"),
    [
        pytest.param((1, 4, 4), 48, 3, 4, 0, 3, id="one-window"),
        pytest.param((1, 4, 4), 96, 6, 4, 2, 3, id="one-window-shifted"),
        pytest.param((3, 8, 4), 48, 3, 4, 1, 2, id="odd-batch-h-not-w-shifted"),
        pytest.param((1, 14, 7), 96, 3, 7, 3, 1, id="window-7-head-dim-32"),
        pytest.param((1, 8, 16), 48, 3, 8, 4, 3, id="window-8-shifted"),
    ],
)
def test_within_budget(
    poisoned,
    within_budget,
    count_launches,
    device: str,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    c: int,
    heads: int,
    window: int,
    shift: int,
    octaves: int,
) -> None:
    skip_wrong_products(device, dtype)
    from clinreadnet.kernels.ops.attention_block import kernel as attention_block_triton

    launches = count_launches(attention_block_triton)
    args = rounded(attention_block_inputs(*shape, c, heads, window, octaves), dtype)
    where = {"window": window, "shift": shift}
    expected = attention_block_oracle(*args, **where)
    actual = attention_block(*(a.to(device) for a in args), **where, impl="triton")
    assert len(launches) == 1
    within_budget(actual, attention_block(*args, **where, impl="reference"), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", [4, 5], ids=["window-4", "window-5-padded"])
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        pytest.param("logits", 1e4, id="huge-logits"),
        pytest.param("logits", -1e4, id="huge-negative-logits"),
        pytest.param("x", 0.7, id="constant-input"),
        pytest.param("x", 6e4, id="constant-near-the-largest-half"),
    ],
)
def test_extremes(
    poisoned, within_budget, device: str, window: int, argument: str, value: float
) -> None:
    """A constant has no variance, and its square no half; only epsilon is left to divide by."""
    args = rounded(attention_block_inputs(1, 2 * window, window, 48, 3, window, 3))
    if argument == "logits":
        args[7] = args[7] * value
    else:
        args[0] = torch.full_like(args[0], value)
    where = {"window": window, "shift": 2}
    expected = attention_block_oracle(*args, **where)
    actual = attention_block(*(a.to(device) for a in args), **where, impl="triton")
    assert actual.isfinite().all()
    within_budget(actual, attention_block(*args, **where, impl="reference"), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_eps_reaches_the_kernel(device: str) -> None:
    args = [a.to(device) for a in rounded(attention_block_inputs(1, 4, 4, 48, 3, 4, 3))]
    small, large = (attention_block(*args, window=4, eps=e, impl="triton") for e in (1e-5, 1.0))
    theirs = attention_block(*args, window=4, eps=1.0, impl="reference")
    assert (large - theirs).norm() < (large - small).norm() / 10


@pytest.mark.parametrize("device", DEVICES)
def test_parameters_may_have_any_strides(device: str) -> None:
    """The network passes a permuted position bias."""
    args = [a.to(device) for a in rounded(attention_block_inputs(1, 4, 8, 48, 3, 4, 3))]
    where = {"window": 4, "shift": 2, "impl": "triton"}
    expected = attention_block(*args, **where)
    args[3] = args[3].t().contiguous().t()
    args[7] = args[7].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(attention_block(*args, **where), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("needed", [range(10), [0], [3, 5, 7]], ids=["all", "x", "some"])
def test_gradients_are_the_references(device: str, needed: Sequence[int]) -> None:
    args = rounded(attention_block_inputs(1, 4, 8, 48, 3, 4, 3))
    assert_gradients_are_the_references(attention_block, args, needed, device, window=4, shift=1)


@pytest.mark.interpret
def test_empty_batch() -> None:
    args = rounded(attention_block_inputs(0, 4, 8, 48, 3, 4, 3))
    assert attention_block(*args, window=4, impl="triton").shape == (0, 4, 8, 48)


@pytest.mark.interpret
def test_registrations_agree() -> None:
    from clinreadnet.kernels.ops.attention_block.kernel import attention_block_op

    args = rounded(attention_block_inputs(1, 4, 8, 48, 3, 4, 3))
    where = {"window": 4, "shift": 1, "eps": 1e-5}
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for op_args in (args, [a.requires_grad_() for a in args]):
        torch.library.opcheck(attention_block_op, op_args, where, test_utils=checks)


def test_the_op_on_the_cpu_is_the_reference() -> None:
    from clinreadnet.kernels.ops.attention_block.kernel import attention_block_op

    args = rounded(attention_block_inputs(1, 4, 8, 48, 3, 4, 3))
    out = attention_block_op(*args, window=4, shift=1, eps=1e-5)
    assert torch.equal(out, attention_block(*args, window=4, shift=1, impl="reference"))


@pytest.mark.parametrize(
    ("shape", "change", "message"),
    [
        pytest.param((1, 8, 8, 48, 3, 4, 3), {}, "needs CUDA tensors, not cpu", id="cpu"),
        pytest.param(
            (1, 8, 8, 48, 3, 4, 3),
            {0: torch.float32},
            "needs x in float16 or bfloat16, not torch.float32",
            id="float32",
        ),
        pytest.param(
            (1, 8, 8, 48, 3, 4, 3),
            {5: torch.float32},
            "in the dtype of x, torch.float16, not torch.float16, torch.float32",
            id="mixed",
        ),
        pytest.param(
            (1, 8, 8, 48, 3, 4, 3),
            {7: torch.float16},
            "position_bias, inv_temperature and gates in float32, not torch.float16",
            id="half-bias",
        ),
        pytest.param((1, 8, 8, 48, 3, 4, 3), {0: None}, "contiguous x", id="transposed"),
        pytest.param((1, 8, 8, 64, 4, 4, 3), {}, "48 or 96 channels, not 64", id="channels"),
        pytest.param((1, 8, 8, 48, 6, 4, 3), {}, r"head_dim in \(16, 32\), not 8", id="head-dim"),
        pytest.param((1, 9, 9, 48, 3, 9, 3), {}, "window in 4...8, not 9", id="window"),
        pytest.param((1, 8, 8, 48, 3, 4, 4), {}, "at most 3 octaves, not 4", id="octaves"),
    ],
)
def test_triton_outside_its_limits_is_refused(
    shape: tuple[int, ...], change: dict[int, torch.dtype | None], message: str
) -> None:
    args = rounded(attention_block_inputs(*shape))
    for i, dtype in change.items():
        args[i] = args[i].transpose(1, 2) if dtype is None else args[i].to(dtype)
    with pytest.raises(ValueError, match=message):
        attention_block(*args, window=shape[5], impl="triton")


def test_refused_where_it_would_spill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinreadnet.kernels.dispatch.gpu_of", lambda device: ("T4", 75))
    args = rounded(attention_block_inputs(1, 8, 8, 48, 3, 4, 3))
    with FakeTensorMode():
        args = [torch.empty(a.shape, dtype=a.dtype, device="cuda") for a in args]
        with pytest.raises(ValueError, match="needs compute capability 8.0 or later, not 7.5"):
            attention_block(*args, window=4, impl="triton")
