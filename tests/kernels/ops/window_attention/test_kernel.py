"""The Triton kernel against the float64 brute force, in the interpreter or on a GPU."""

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
from support.oracles import window_attention_oracle
from torch import Tensor

from clinreadnet.kernels import window_attention
from clinreadnet.kernels.ptx.device_arithmetic import arithmetic_of
from clinreadnet.kernels.ptx.inputs import window_attention_inputs

pytestmark = NEEDS_TRITON
DTYPES = by_dtype(torch.float32, torch.float16, torch.bfloat16)


def rounded(args: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    """Return the op's inputs: qkv in ``dtype``, the others in float32."""
    qkv, *rest = args
    return [qkv.to(dtype), *(tensor.float() for tensor in rest)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "heads", "head_dim", "window", "shift", "octaves"),
    [
        pytest.param((1, 4, 4), 1, 16, 4, 0, 3, id="one-window"),
        pytest.param((1, 4, 4), 2, 16, 4, 2, 3, id="one-window-shifted"),
        pytest.param((3, 8, 4), 3, 16, 4, 1, 2, id="odd-batch-h-not-w-shifted"),
        pytest.param((1, 14, 7), 2, 32, 7, 3, 4, id="window-7-four-octaves"),
        pytest.param((1, 5, 10), 1, 32, 5, 0, 1, id="window-5-one-octave"),
        pytest.param((1, 8, 16), 3, 16, 8, 4, 3, id="window-8-shifted"),
        pytest.param((1, 11, 11), 1, 16, 11, 10, 3, id="window-11-two-tiles"),
        pytest.param((1, 16, 16), 1, 16, 16, 8, 3, id="window-16-shifted"),
    ],
)
def test_within_budget(
    poisoned,
    within_budget,
    count_launches,
    device: str,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    heads: int,
    head_dim: int,
    window: int,
    shift: int,
    octaves: int,
) -> None:
    skip_wrong_products(device, dtype)
    from clinreadnet.kernels.ops.window_attention import kernel as window_attention_triton

    launches = count_launches(window_attention_triton)
    args = rounded(window_attention_inputs(*shape, heads, head_dim, window, octaves), dtype)
    where = {"window": window, "shift": shift}
    expected = window_attention_oracle(*args, **where)
    actual = window_attention(*(a.to(device) for a in args), **where, impl="triton")
    assert len(launches) == 1
    with arithmetic_of(device):
        reference = window_attention(*args, **where, impl="reference")
    within_budget(actual, reference, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", [4, 5], ids=["window-4", "window-5-padded"])
@pytest.mark.parametrize("scale", [1e4, -1e4], ids=["plus", "minus"])
def test_huge_logits(poisoned, within_budget, device: str, window: int, scale: float) -> None:
    args = rounded(window_attention_inputs(1, 2 * window, window, 2, 16, window, 3), torch.float32)
    args[1] = args[1] * scale
    where = {"window": window, "shift": 2}
    expected = window_attention_oracle(*args, **where)
    actual = window_attention(*(a.to(device) for a in args), **where, impl="triton")
    assert actual.isfinite().all()
    with arithmetic_of(device):
        reference = window_attention(*args, **where, impl="reference")
    within_budget(actual, reference, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", [4, 7], ids=["window-4", "window-7-padded"])
def test_constant_input_returns_the_constant(
    poisoned, within_budget, device: str, window: int
) -> None:
    args = rounded(window_attention_inputs(1, window, 2 * window, 2, 16, window, 3), torch.float32)
    args[0] = torch.full_like(args[0], 0.7)
    where = {"window": window, "shift": 2}
    out = window_attention(*(a.to(device) for a in args), **where, impl="triton")
    with arithmetic_of(device):
        reference = window_attention(*args, **where, impl="reference")
    within_budget(out, reference, torch.full_like(reference, 0.7).double())


@pytest.mark.parametrize("device", DEVICES)
def test_small_tensors_may_have_any_strides(device: str) -> None:
    """The network passes a permuted bias."""
    args = rounded(window_attention_inputs(1, 4, 8, 3, 16, 4, 3), torch.float32)
    args = [a.to(device) for a in args]
    where = {"window": 4, "shift": 2, "impl": "triton"}
    expected = window_attention(*args, **where)
    args[1] = args[1].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    args[3] = args[3].t().contiguous().t()
    assert torch.equal(window_attention(*args, **where), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("needed", [range(4), [0], [1, 3]], ids=["all", "qkv", "some"])
def test_gradients_are_the_references(device: str, needed: Sequence[int]) -> None:
    args = rounded(window_attention_inputs(1, 4, 8, 2, 16, 4, 3), torch.float32)
    assert_gradients_are_the_references(window_attention, args, needed, device, window=4, shift=1)


@pytest.mark.interpret
def test_empty_batch() -> None:
    args = rounded(window_attention_inputs(0, 4, 8, 2, 16, 4, 3), torch.float32)
    assert window_attention(*args, window=4, impl="triton").shape == (0, 4, 8, 32)


@pytest.mark.interpret
def test_registrations_agree() -> None:
    from clinreadnet.kernels.ops.window_attention.kernel import window_attention_op

    args = rounded(window_attention_inputs(1, 4, 8, 2, 16, 4, 3), torch.float32)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for op_args in (args, [a.requires_grad_() for a in args]):
        torch.library.opcheck(
            window_attention_op, op_args, {"window": 4, "shift": 1}, test_utils=checks
        )


def test_the_op_on_the_cpu_is_the_reference() -> None:
    from clinreadnet.kernels.ops.window_attention.kernel import window_attention_op

    args = rounded(window_attention_inputs(1, 4, 8, 2, 16, 4, 3), torch.float32)
    out = window_attention_op(*args, window=4, shift=1)
    assert torch.equal(out, window_attention(*args, window=4, shift=1, impl="reference"))


@pytest.mark.parametrize(
    ("shape", "window", "change", "message"),
    [
        pytest.param((1, 8, 8, 2, 16, 4, 3), 4, {}, "needs CUDA tensors, not cpu", id="cpu"),
        pytest.param(
            (1, 8, 8, 2, 16, 4, 3), 4, {"qkv": torch.float64}, "not torch.float64", id="float64"
        ),
        pytest.param(
            (1, 8, 8, 2, 16, 4, 3),
            4,
            {"bias": torch.float16},
            "bias, inv_temperature and gates in float32, not torch.float16",
            id="half-bias",
        ),
        pytest.param((1, 8, 8, 2, 8, 4, 3), 4, {}, r"head_dim in \(16, 32\), not 8", id="head-dim"),
        pytest.param((1, 6, 6, 2, 16, 3, 3), 3, {}, r"window in 4...16, not 3", id="window"),
        pytest.param((1, 8, 8, 2, 16, 4, 5), 4, {}, "at most 4 octaves, not 5", id="octaves"),
        pytest.param((1, 8, 8, 2, 16, 4, 3), 4, {"qkv": None}, "contiguous qkv", id="transposed"),
    ],
)
def test_triton_outside_its_limits_is_refused(
    shape: tuple[int, ...], window: int, change: dict[str, torch.dtype | None], message: str
) -> None:
    names = ("qkv", "bias", "inv_temperature", "gates")
    args = rounded(window_attention_inputs(*shape), torch.float32)
    kwargs = dict(zip(names, args, strict=True))
    for name, dtype in change.items():
        tensor = kwargs[name]
        kwargs[name] = tensor.transpose(1, 2) if dtype is None else tensor.to(dtype)
    with pytest.raises(ValueError, match=message):
        window_attention(**kwargs, window=window, impl="triton")
