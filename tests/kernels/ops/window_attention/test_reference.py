"""The reference against a brute-force oracle that knows nothing of windows as tensors."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from support.oracles import window_attention_oracle

from clinreadnet.kernels import window_attention
from clinreadnet.kernels.ops.window_attention.reference import cyclic_shift, stacked_octaves
from clinreadnet.kernels.ptx.inputs import window_attention_inputs

FORMS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "plain": nullcontext,
    "stacked": stacked_octaves,
}


@pytest.fixture(params=list(FORMS))
def form(request: pytest.FixtureRequest) -> AbstractContextManager[None]:
    return FORMS[request.param]()


@pytest.mark.parametrize(
    ("shape", "window", "shift", "octaves"),
    [
        pytest.param((1, 4, 4), 4, 0, 3, id="one-window"),
        pytest.param((1, 4, 4), 4, 2, 3, id="one-window-shifted"),
        pytest.param((2, 8, 12), 4, 2, 3, id="h-not-w-shifted"),
        pytest.param((3, 12, 8), 4, 1, 2, id="odd-batch-shift-1"),
        pytest.param((1, 14, 7), 7, 3, 4, id="window-7-four-octaves"),
        pytest.param((1, 8, 8), 4, 2, 1, id="one-octave"),
        pytest.param((3, 8, 12), 4, 0, 2, id="h-not-w-two-octaves"),
        pytest.param((1, 8, 8), 4, 0, 1, id="one-octave-unshifted"),
    ],
)
def test_equals_brute_force(
    form: AbstractContextManager[None],
    shape: tuple[int, int, int],
    window: int,
    shift: int,
    octaves: int,
) -> None:
    args = window_attention_inputs(*shape, heads=2, d=4, window=window, octaves=octaves)
    expected = window_attention_oracle(*args, window=window, shift=shift)
    with form:
        actual = window_attention(*args, window=window, shift=shift)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shift", [0, 4], ids=["unshifted", "shifted"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_low_precision_stays_within_the_rounding_of_its_dtype(
    form: AbstractContextManager[None], dtype: torch.dtype, shift: int
) -> None:
    qkv, *rest = window_attention_inputs(1, 16, 8, heads=2, d=16, window=8, octaves=3)
    qkv = qkv.to(dtype)  # round once; the oracle sees the rounded input
    expected = window_attention_oracle(qkv, *rest, window=8, shift=shift)
    with form:
        actual = window_attention(qkv, *rest, window=8, shift=shift)
    assert actual.dtype == dtype
    error = (actual.double() - expected).norm() / expected.norm()
    # A score is rounded once and multiplied by up to 2^2 beta; probabilities and output once each.
    amplification = 4 * rest[1].max().item() * 4
    assert error < amplification * torch.finfo(dtype).eps


@pytest.mark.parametrize("scale", [1e4, -1e4], ids=["plus", "minus"])
def test_huge_logits_stay_finite(scale: float) -> None:
    qkv, bias, beta, gates = (x.float() for x in window_attention_inputs(1, 8, 8, 2, 4, 4, 3))
    out = window_attention(qkv, bias * scale, beta, gates, window=4, shift=2)
    assert out.isfinite().all()


def test_constant_input_returns_the_constant() -> None:
    _, bias, beta, gates = window_attention_inputs(1, 8, 8, 2, 4, 4, 3)
    qkv = torch.full((1, 8, 8, 24), 0.7, dtype=torch.float64)
    out = window_attention(qkv, bias, beta, gates, window=4, shift=2)
    torch.testing.assert_close(out, torch.full_like(out, 0.7))


@pytest.mark.parametrize("shift", [-3, 0, 2], ids=str)
def test_cyclic_shift_is_a_roll(shift: int) -> None:
    x = torch.arange(2 * 5 * 7 * 3).reshape(2, 5, 7, 3)
    assert torch.equal(cyclic_shift(x, shift), x.roll((-shift, -shift), dims=(1, 2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"qkv": (1, 9, 8, 24)}, "not multiples of window=4", id="h-not-a-multiple"),
        pytest.param({"qkv": (8, 8, 24)}, r"is not \[B, H, W, 3C\]", id="three-dimensions"),
        pytest.param({"qkv": (1, 8, 8, 25)}, "not a multiple of 3 \\* 2 heads", id="channels"),
        pytest.param({"bias": (2, 16, 15)}, "bias", id="bias"),
        pytest.param({"inv_temperature": (3,)}, "inv_temperature", id="temperature"),
        pytest.param({"gates": (2,)}, "gates", id="gates"),
        pytest.param({"shift": 4}, "shift=4", id="shift"),
        pytest.param({"impl": "cuda"}, "impl='cuda'", id="implementation"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    names = ("qkv", "bias", "inv_temperature", "gates")
    kwargs: dict = dict(zip(names, window_attention_inputs(1, 8, 8, 2, 4, 4, 3), strict=True))
    kwargs |= {"window": 4, "shift": 2}
    for name, value in change.items():
        kwargs[name] = torch.zeros(value) if isinstance(value, tuple) else value
    with pytest.raises(ValueError, match=message):
        window_attention(**kwargs)
