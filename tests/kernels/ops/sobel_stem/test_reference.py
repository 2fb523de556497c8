import math

import numpy as np
import pytest
import torch
from support.oracles import sobel_stem_oracle

from clinreadnet.kernels import sobel_stem


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 6), (5, 3), (8, 14), (9, 16)],
    ids=["one-pixel", "one-row", "odd", "even", "mixed"],
)
def test_equals_the_definition(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.random((2, 1, height, width))
    weight, bias = rng.normal(size=(5, 4, 3, 3)), rng.normal(size=5)
    out = sobel_stem(*(torch.from_numpy(a) for a in (x, weight, bias)))
    expected = np.stack([sobel_stem_oracle(image[0], weight, bias) for image in x])
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_constant_image_has_finite_gradients() -> None:
    x = torch.full((1, 1, 8, 8), 0.5, requires_grad=True)
    sobel_stem(x, torch.randn(3, 4, 3, 3), torch.zeros(3)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_edges_are_float32_under_half_weights() -> None:
    """A gradient of 1e-4 survives: squared, it would vanish in half precision."""
    x = torch.linspace(0.5, 0.5 + 63e-4 / 4, 64).repeat(8, 1)[None, None]
    weight = torch.zeros(1, 4, 3, 3, dtype=torch.float16)
    weight[0, 3, 1, 1] = 1  # copies the magnitude
    out = sobel_stem(x, weight, torch.zeros(1, dtype=torch.float16))
    magnitude = math.sqrt((63e-4 / 4 / 63) ** 2 + 1e-6)
    expected = 0.5 * magnitude * (1 + math.erf(magnitude / math.sqrt(2)))
    assert out.dtype == torch.float16
    np.testing.assert_allclose(out[0, 0, 1:-1, 1:-1].numpy(), expected, rtol=2e-3)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        pytest.param((1, 2, 8, 8), (3, 4, 3, 3), (3,), r"x \[1, 2, 8, 8\]", id="two-channels"),
        pytest.param((1, 1, 8, 8), (3, 3, 3, 3), (3,), r"weight \[3, 3", id="weight"),
        pytest.param((1, 1, 8, 8), (3, 4, 3, 3), (4,), r"bias \[4\]", id="bias"),
    ],
)
def test_bad_shapes(x: tuple, weight: tuple, bias: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sobel_stem(torch.zeros(x), torch.zeros(weight), torch.zeros(bias))


def test_hounsfield_units_are_encoded() -> None:
    hu = torch.tensor([[-2000.0, -1000.0, -300.0], [0.0, 400.0, 3000.0]]).double()[None, None]
    weight, bias = torch.randn(3, 4, 3, 3).double(), torch.zeros(3).double()
    encoded = torch.tensor([[0, 0, 0.5], [1000 / 1400, 1, 1]]).double()[None, None]
    out = sobel_stem(hu, weight, bias, lowest=-1000.0, span=1400.0)
    torch.testing.assert_close(out, sobel_stem(encoded, weight, bias), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "encoding", [{"lowest": -1000.0}, {"span": 1400.0}, {"lowest": 0.0, "span": 0.0}], ids=str
)
def test_half_an_encoding_is_refused(encoding: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not given together, or span is not positive"):
        sobel_stem(torch.zeros(1, 1, 8, 8), torch.zeros(3, 4, 3, 3), torch.zeros(3), **encoding)
