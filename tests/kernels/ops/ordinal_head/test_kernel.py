"""The Triton kernel against the float64 oracle, in the interpreter or on a GPU."""

import pytest
import torch
from support.kernel_tests import (
    DEVICES,
    NEEDS_TRITON,
    assert_gradients_are_the_references,
    by_dtype,
)
from support.oracles import ordinal_head_oracle
from torch import Tensor

from clinreadnet.kernels import ordinal_head
from clinreadnet.kernels.ptx.inputs import ordinal_head_inputs

pytestmark = NEEDS_TRITON
DTYPES = by_dtype(torch.float16, torch.bfloat16)


def inputs(batch: int, tokens: int, dtype: torch.dtype = torch.float16) -> list[Tensor]:
    x, *parameters = ordinal_head_inputs(batch, tokens, 21, first=32, features=128)
    return [x.to(dtype), *(tensor.float() for tensor in parameters)]


def on(device: str, args: list[Tensor]) -> list[Tensor]:
    return [tensor.to(device) for tensor in args]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "tokens"),
    [
        pytest.param(1, 1, id="one-token"),
        pytest.param(3, 71, id="last-chunk-in-part"),
        pytest.param(2, 256, id="whole-chunks"),
    ],
)
def test_within_budget(
    poisoned,
    within_budget,
    count_launches,
    device: str,
    dtype: torch.dtype,
    batch: int,
    tokens: int,
) -> None:
    from clinreadnet.kernels.ops.ordinal_head import kernel

    launches = count_launches(kernel)
    args = inputs(batch, tokens, dtype)
    actual = ordinal_head(*on(device, args), impl="triton")
    assert len(launches) == 1
    expected = ordinal_head_oracle(*args)
    parts = (1, 21, tokens)  # score, distribution and map, each within a budget of its own
    outputs = zip(
        *(o.split(parts, 1) for o in (actual, ordinal_head(*args, impl="reference"), expected)),
        strict=True,
    )
    for mine, reference, right in outputs:
        within_budget(mine, reference, right)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("columns", "tokens", "value"),
    [
        pytest.param(slice(21), slice(None), 0.0, id="equal-votes"),
        pytest.param(slice(3, 4), slice(None), 6e4, id="certain-votes"),
        pytest.param(slice(21, 22), slice(40, 41), 6e4, id="one-token-decides"),
        pytest.param(slice(21, 22), slice(None), -6e4, id="lowest-weights"),
        pytest.param(slice(32, None), slice(None), -1e3, id="dead-features"),
    ],
)
def test_extremes(
    poisoned, within_budget, device: str, columns: slice, tokens: slice, value: float
) -> None:
    args = inputs(2, 71)
    args[0][:, tokens, columns] = value
    actual = ordinal_head(*on(device, args), impl="triton")
    assert actual.isfinite().all()
    within_budget(actual, ordinal_head(*args, impl="reference"), ordinal_head_oracle(*args))


@pytest.mark.parametrize("device", DEVICES)
def test_parameters_may_have_any_strides(device: str) -> None:
    args = on(device, inputs(2, 5))
    expected = ordinal_head(*args, impl="triton")
    args[1] = args[1].t().contiguous().t()
    args[2], args[4] = (args[place].repeat_interleave(2)[::2] for place in (2, 4))
    assert torch.equal(ordinal_head(*args, impl="triton"), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_the_references(device: str) -> None:
    assert_gradients_are_the_references(ordinal_head, inputs(2, 5), range(5), device)


@pytest.mark.interpret
def test_empty_batch() -> None:
    x, *parameters = inputs(1, 5)
    assert ordinal_head(x[:0], *parameters, impl="triton").shape == (0, 27)


@pytest.mark.interpret
def test_registrations_agree() -> None:
    from clinreadnet.kernels.ops.ordinal_head.kernel import ordinal_head_op

    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    args = inputs(2, 5)
    for x in (args[0], args[0].clone().requires_grad_()):
        torch.library.opcheck(ordinal_head_op, (x, *args[1:]), test_utils=checks)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        pytest.param(None, None, "needs CUDA tensors, not cpu", id="cpu"),
        pytest.param(
            0, lambda x: x.float(), "float16 or bfloat16, not torch.float32", id="float32"
        ),
        pytest.param(2, lambda b: b.half(), "needs parameters in float32", id="mixed"),
        pytest.param(0, lambda x: x.transpose(0, 1), "contiguous x", id="transposed"),
        pytest.param(0, lambda x: x[..., 8:].contiguous(), "needs 32 values", id="narrow"),
        pytest.param(1, lambda w: w[:, :96], "needs 128 channels, not 96", id="features"),
    ],
)
def test_triton_outside_its_limits_is_refused(place, change, message: str) -> None:
    args = inputs(2, 5)
    if place is not None:
        args[place] = change(args[place])
    with pytest.raises(ValueError, match=message):
        ordinal_head(*args, impl="triton")
