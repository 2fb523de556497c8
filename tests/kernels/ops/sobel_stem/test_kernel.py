"""The Triton kernel against the float64 definition, in the interpreter or on a GPU."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from support.kernel_tests import (
    DEVICES,
    NEEDS_TRITON,
    assert_gradients_are_the_references,
    skip_wrong_products,
)
from support.oracles import sobel_stem_oracle

from clinreadnet.kernels import sobel_stem
from clinreadnet.kernels.ptx.device_arithmetic import arithmetic_of
from clinreadnet.kernels.ptx.inputs import stem_inputs

pytestmark = NEEDS_TRITON
DTYPES = [
    pytest.param(torch.float32, torch.float32, id="float32"),
    pytest.param(torch.float32, torch.float16, id="float16"),
    pytest.param(torch.float16, torch.float16, id="float16-input"),
    pytest.param(torch.float32, torch.bfloat16, id="bfloat16"),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("x_dtype", "dtype"), DTYPES)
@pytest.mark.parametrize(
    ("batch", "height", "width", "c0"),
    [
        pytest.param(1, 1, 1, 24, id="one-pixel"),
        pytest.param(1, 1, 6, 16, id="one-row"),
        pytest.param(3, 5, 3, 48, id="odd-batch-odd-sides"),
        pytest.param(1, 18, 68, 24, id="over-the-tile"),
        pytest.param(2, 9, 64, 5, id="mixed-five-channels"),
    ],
)
def test_within_budget(
    poisoned,
    within_budget,
    count_launches,
    device: str,
    x_dtype: torch.dtype,
    dtype: torch.dtype,
    batch: int,
    height: int,
    width: int,
    c0: int,
) -> None:
    skip_wrong_products(device, dtype)
    from clinreadnet.kernels.ops.sobel_stem import kernel as sobel_stem_triton

    launches = count_launches(sobel_stem_triton)
    args = stem_inputs(batch, height, width, c0, x_dtype, dtype)
    x, weight, bias = (a.double().numpy() for a in args)
    expected = torch.from_numpy(np.stack([sobel_stem_oracle(i[0], weight, bias) for i in x]))
    actual = sobel_stem(*(a.to(device) for a in args), impl="triton")
    assert len(launches) == 1
    assert actual.is_contiguous(memory_format=torch.channels_last)
    with arithmetic_of(device):
        reference = sobel_stem(*args, impl="reference")
    within_budget(actual, reference, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["full", "half"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 19)], ids=["one-pixel", "odd-batch"])
def test_hounsfield_units_are_encoded(
    poisoned,
    within_budget,
    device: str,
    x_dtype: torch.dtype,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
) -> None:
    """Values beyond both ends of the range are clipped, and the border of zeros is encoded."""
    encoding = {"lowest": -1000.0, "span": 1400.0}
    x, weight, bias = stem_inputs(*shape, 16, torch.float32, dtype)
    hu = (2000 * x - 1300).round().to(x_dtype)
    w, b = weight.double().numpy(), bias.double().numpy()
    encoded = np.clip((hu.double().numpy() + 1000) / 1400, 0, 1)
    expected = torch.from_numpy(np.stack([sobel_stem_oracle(i[0], w, b) for i in encoded]))
    args = hu, weight, bias
    actual = sobel_stem(*(a.to(device) for a in args), **encoding, impl="triton")
    with arithmetic_of(device):
        reference = sobel_stem(*args, **encoding, impl="reference")
    within_budget(actual, reference, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_constant_image_has_no_edges(poisoned, within_budget, device: str) -> None:
    """All but the convolution's zero border is one value: x, and the root of epsilon."""
    _, weight, bias = stem_inputs(1, 1, 1, 16, torch.float32, torch.float32)
    x = torch.full((1, 1, 12, 20), 0.25)
    args = (x, weight, bias)
    out = sobel_stem(*(a.to(device) for a in args), impl="triton")
    with arithmetic_of(device):
        reference = sobel_stem(*args, impl="reference")
    y = (weight[:, 0].double() * 0.25 + weight[:, 3].double() * 1e-3).sum((1, 2)) + bias
    inner = (slice(None), slice(None), slice(1, None), slice(1, None))
    expected = torch.nn.functional.gelu(y)[None, :, None, None].expand_as(reference[inner])
    within_budget(out[inner], reference[inner], expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("needed", [range(3), [1, 2], [0]], ids=["all", "parameters", "x"])
def test_gradients_are_the_references(device: str, needed: Sequence[int]) -> None:
    args = stem_inputs(2, 7, 10, 16, torch.float32, torch.float32)
    assert_gradients_are_the_references(sobel_stem, args, needed, device)


@pytest.mark.interpret
def test_empty_batch() -> None:
    args = stem_inputs(0, 8, 8, 16, torch.float32, torch.float32)
    assert sobel_stem(*args, impl="triton").shape == (0, 16, 4, 4)


@pytest.mark.interpret
@pytest.mark.parametrize("encoding", [{}, {"lowest": 0.25, "span": 0.5}], ids=["plain", "encoding"])
def test_registrations_agree(encoding: dict[str, float]) -> None:
    from clinreadnet.kernels.ops.sobel_stem.kernel import sobel_stem_op

    args = stem_inputs(2, 7, 10, 16, torch.float32, torch.float32)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for op_args in (args, [a.requires_grad_() for a in args]):
        torch.library.opcheck(sobel_stem_op, op_args, encoding, test_utils=checks)


def test_the_op_on_the_cpu_is_the_reference() -> None:
    from clinreadnet.kernels.ops.sobel_stem.kernel import sobel_stem_op

    args = stem_inputs(2, 7, 10, 16, torch.float32, torch.float32)
    out = sobel_stem_op(*args)
    assert torch.equal(out, sobel_stem(*args, impl="reference"))
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({}, "needs CUDA tensors, not cpu", id="cpu"),
        pytest.param(
            {"weight": torch.zeros(16, 4, 3, 3, dtype=torch.float64)},
            "weight in float32, float16 or bfloat16, not torch.float64",
            id="float64",
        ),
        pytest.param(
            {"x": torch.zeros(2, 1, 7, 10, dtype=torch.float16)},
            "x in float32 or the dtype of weight, torch.float32, not torch.float16",
            id="half-input",
        ),
        pytest.param(
            {"bias": torch.zeros(16, dtype=torch.float16)}, "bias in the dtype", id="half-bias"
        ),
        pytest.param({"x": torch.zeros(2, 1, 10, 7).mT}, "contiguous x", id="transposed"),
        pytest.param(
            {"weight": torch.zeros(65, 4, 3, 3), "bias": torch.zeros(65)},
            "at most 64 output channels, not 65",
            id="channels",
        ),
    ],
)
def test_triton_outside_its_limits_is_refused(change: dict, message: str) -> None:
    names = ("x", "weight", "bias")
    args = stem_inputs(2, 7, 10, 16, torch.float32, torch.float32)
    kwargs = dict(zip(names, args, strict=True)) | change
    with pytest.raises(ValueError, match=message):
        sobel_stem(**kwargs, impl="triton")


def test_bfloat16_is_not_encoded() -> None:
    args = stem_inputs(2, 7, 10, 16, torch.bfloat16, torch.bfloat16)
    with pytest.raises(ValueError, match="needs x in float32 or float16 to encode it"):
        sobel_stem(*args, lowest=-1000.0, span=1400.0, impl="triton")
