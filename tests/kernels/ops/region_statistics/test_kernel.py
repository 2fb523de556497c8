"""The Triton kernel against the float64 oracle, in the interpreter or on a GPU."""

from typing import Any

import pytest
import torch
from support.kernel_tests import (
    DEVICES,
    NEEDS_TRITON,
    assert_gradients_are_the_references,
    by_dtype,
)
from support.oracles import region_statistics_oracle
from torch import Tensor

from clinreadnet.kernels import region_statistics
from clinreadnet.kernels.ptx.inputs import region_statistics_inputs

pytestmark = NEEDS_TRITON
DTYPES = by_dtype(torch.float32, torch.float16, torch.bfloat16)
TILES: dict[str, Any] = {"region_h": 8, "region_w": 8, "log": True}


def inputs(*shape: int, dtype: torch.dtype = torch.float16) -> list[Tensor]:
    x, shift, scale = region_statistics_inputs(*shape)
    return [x.to(dtype), shift.float(), scale.float()]


def on(device: str, args: list[Tensor]) -> list[Tensor]:
    return [tensor.to(device) for tensor in args]


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "where"),
    [
        pytest.param((1, 8, 8, 16), TILES, id="one-region"),
        pytest.param((3, 16, 24, 48), TILES, id="odd-batch-h-not-w"),
        pytest.param((2, 8, 16, 32), TILES | {"region_w": 2}, id="narrow-regions"),
    ],
)
def test_logarithms_within_budget(
    poisoned,
    within_budget,
    count_launches,
    device: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    where: dict[str, Any],
) -> None:
    from clinreadnet.kernels.ops.region_statistics import kernel

    launches = count_launches(kernel)
    args = inputs(*shape, dtype=dtype)
    actual = region_statistics(*on(device, args), **where, impl="triton")
    assert len(launches) == 1
    reference = region_statistics(*args, **where, impl="reference")
    within_budget(actual, reference, region_statistics_oracle(*args, **where))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("shape", "region"),
    [
        pytest.param((1, 1, 1, 16), (1, 1), id="one-token"),
        pytest.param((1, 1, 2, 96), (1, 2), id="two-tokens"),
        pytest.param((3, 4, 6, 96), (4, 6), id="odd-batch-last-chunk-in-part"),
        pytest.param((2, 16, 16, 32), (16, 16), id="whole-chunks"),
    ],
)
def test_deviations_within_budget(
    poisoned, within_budget, device: str, shape: tuple[int, ...], region: tuple[int, int]
) -> None:
    where: dict[str, Any] = {"region_h": region[0], "region_w": region[1], "log": False}
    args = inputs(*shape, dtype=torch.float32)
    actual = region_statistics(*on(device, args), **where, impl="triton")
    reference = region_statistics(*args, **where, impl="reference")
    within_budget(actual, reference, region_statistics_oracle(*args, **where))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("log", [False, True], ids=["root", "log"])
def test_a_constant_channel_far_from_zero(device: str, within_budget, log: bool) -> None:
    """A variance from sums of squares would lose all digits."""
    args = inputs(1, 8, 8, 16, dtype=torch.float32)
    args[0][..., 3] = 1e4
    where = TILES | {"log": log}
    actual = region_statistics(*on(device, args), **where, impl="triton")
    expected = region_statistics_oracle(*args, **where)
    within_budget(actual, region_statistics(*args, **where, impl="reference"), expected)
    torch.testing.assert_close(actual[..., 19].cpu().double(), expected[..., 19])


@pytest.mark.parametrize("device", DEVICES)
def test_parameters_may_have_any_strides(device: str) -> None:
    args = on(device, inputs(1, 8, 16, 16))
    expected = region_statistics(*args, **TILES, impl="triton")
    args[1:] = [tensor.repeat_interleave(2)[::2] for tensor in args[1:]]
    assert torch.equal(region_statistics(*args, **TILES, impl="triton"), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_the_references(device: str) -> None:
    args = inputs(2, 8, 16, 16, dtype=torch.float32)
    assert_gradients_are_the_references(region_statistics, args, range(3), device, **TILES)


@pytest.mark.interpret
def test_empty_batch() -> None:
    x, *others = inputs(1, 8, 16, 16)
    assert region_statistics(x[:0], *others, **TILES, impl="triton").shape == (0, 1, 2, 32)


@pytest.mark.interpret
def test_registrations_agree() -> None:
    from clinreadnet.kernels.ops.region_statistics.kernel import region_statistics_op

    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    args = inputs(2, 8, 16, 16)
    for x in (args[0], args[0].clone().requires_grad_()):
        torch.library.opcheck(region_statistics_op, (x, *args[1:]), TILES, test_utils=checks)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        pytest.param(0, lambda x: x, "needs CUDA tensors, not cpu", id="cpu"),
        pytest.param(0, lambda x: x.double(), "not torch.float64", id="float64"),
        pytest.param(2, lambda s: s.half(), "shift and scale in float32", id="mixed"),
        pytest.param(0, lambda x: x.transpose(1, 2), "contiguous x", id="transposed"),
    ],
)
def test_triton_outside_its_limits_is_refused(place, change, message: str) -> None:
    args = inputs(2, 8, 8, 16)
    args[place] = change(args[place])
    with pytest.raises(ValueError, match=message):
        region_statistics(*args, **TILES, impl="triton")


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16 as channels, not 24"):
        region_statistics(*inputs(1, 8, 8, 24), **TILES, impl="triton")
