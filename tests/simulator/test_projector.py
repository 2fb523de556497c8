import numpy as np
import pytest

from clinreadnet.errors import InputError
from clinreadnet.simulator.kernel import Kernel
from clinreadnet.simulator.phantom.draw import draw_phantom
from clinreadnet.simulator.projector import (
    back_project,
    filter_length,
    forward_project,
    view_angles,
)
from clinreadnet.simulator.scan import MU_WATER_PER_MM, attenuation_per_pixel

transform = pytest.importorskip("skimage.transform")


@pytest.fixture(scope="module")
def phantom():
    return draw_phantom(3, 2)


def slice_of(phantom, size):
    """Return the phantom's attenuation at a size: every k-th pixel, on an even or odd grid."""
    step = -(-phantom.hu.shape[0] // size)
    picked = (np.arange(size) - size // 2) * step + phantom.hu.shape[0] // 2
    hu = np.pad(phantom.hu, 64, constant_values=-1000)[np.ix_(picked + 64, picked + 64)]
    return attenuation_per_pixel(hu, phantom.pixel_mm)


def to_hu(mu, phantom):
    return 1000 * mu / (MU_WATER_PER_MM * phantom.pixel_mm)


CASES = [
    pytest.param(128, 90, id="even-128"),
    pytest.param(101, 61, id="odd-101-odd-views"),
    pytest.param(512, 120, id="full-512"),
]


@pytest.mark.parametrize("size, views", CASES)
def test_forward_equals_radon(phantom, size, views):
    mu = slice_of(phantom, size)
    expected = transform.radon(mu, np.degrees(view_angles(views)), circle=True).T
    ours = forward_project(mu, views)
    assert ours.dtype == np.float32 and ours.shape == (views, size)
    np.testing.assert_allclose(ours, expected, atol=1e-5 * expected.max())


def hann(size):
    """Return the Hann window of scikit-image, for a real FFT."""
    window = np.fft.fftshift(np.hanning(size))
    # An even-length np.hanning is off centre by half a bin; the real part of the inverse transform
    # sees the mean of both sides, and a one-sided transform must be given that mean.
    return ((window + np.roll(window[::-1], 1)) / 2)[: size // 2 + 1].astype(np.float32)


@pytest.mark.parametrize("name", ["hann", "ramp"])
@pytest.mark.parametrize("size, views", CASES)
def test_reconstruction_equals_iradon(phantom, size, views, name):
    sinogram = forward_project(slice_of(phantom, size), views)
    expected = transform.iradon(
        sinogram.T, np.degrees(view_angles(views)), filter_name=name, circle=True
    )
    windows = hann(filter_length(size)) if name == "hann" else None
    ours = back_project(sinogram[None], windows)[0]
    error = to_hu(ours - expected, phantom)
    # Past the outermost cell of an even detector scikit-image cuts and we fade: a one-pixel rim.
    inner = np.hypot(*(np.indices(expected.shape) - size // 2)) < size // 2 - 1.5
    assert np.sqrt(np.mean(error[inner] ** 2)) < 0.5
    if size == 512 or size % 2:
        assert np.sqrt(np.mean(error**2)) < 2.0


def test_reconstruction_is_in_place_and_in_scale():
    # One off-centre disc: a transposed or mirrored geometry would put it elsewhere.
    y, x = np.indices((129, 129)) - 64
    image = (np.hypot(x - 25, y + 12) < 9).astype(np.float32)
    back = back_project(forward_project(image, 180)[None])[0]
    assert back[64 - 12, 64 + 25] == pytest.approx(1.0, abs=0.02)
    assert abs(back[64 + 12, 64 + 25]) < 0.02
    assert abs(back[64 + 25, 64 - 12]) < 0.02


@pytest.mark.parametrize("channels", [1, 5, 8, 11])
def test_channels_do_not_mix(channels):
    rng = np.random.default_rng(0)
    sinograms = rng.random((channels, 20, 65), np.float32)
    together = back_project(sinograms)
    for k in range(channels):
        np.testing.assert_allclose(together[k], back_project(sinograms[k : k + 1])[0], atol=1e-6)


def test_every_projection_holds_the_whole_mass(phantom):
    mu = slice_of(phantom, 128)
    totals = forward_project(mu, 30).sum(axis=1)
    np.testing.assert_allclose(totals, mu.sum(), rtol=2e-3)


def test_empty_image_projects_to_nothing():
    assert not forward_project(np.zeros((64, 64), np.float32), 4).any()


@pytest.mark.parametrize(
    "image, words",
    [
        pytest.param(np.zeros((32, 40), np.float32), "square", id="not-square"),
        pytest.param(np.ones((32, 32), np.float32), "outside the inscribed circle", id="corners"),
    ],
)
def test_refuses(image, words):
    with pytest.raises(InputError, match=words):
        forward_project(image, 4)


@pytest.mark.filterwarnings("error")
def test_torch_agrees_within_two_hounsfield_units(phantom):
    torch = pytest.importorskip("torch")
    from clinreadnet.simulator import projector_torch

    mu = attenuation_per_pixel(phantom.hu, phantom.pixel_mm)
    sinogram = forward_project(mu, 30)
    batch = torch.from_numpy(np.stack([mu, mu[::-1, ::-1].copy()]))
    ours = projector_torch.forward_project(batch, 30)
    assert ours.shape == (2, 30, 512)
    np.testing.assert_allclose(ours[0].numpy(), sinogram, atol=2e-3)
    scale = 1000 / (MU_WATER_PER_MM * phantom.pixel_mm)
    # Each image with a kernel of its own.
    length = filter_length(512)
    windows = np.stack([Kernel(cutoff, 1.5).window(length, 0.8) for cutoff in (0.25, 1.5)])
    images = back_project(np.stack([sinogram, sinogram]), windows)
    assert np.abs(images[0] - images[1]).max() * scale > 50
    again = projector_torch.back_project(ours[[0, 0]], windows).numpy()
    assert np.sqrt(np.mean(((again - images) * scale) ** 2)) < 2
    # As the simulator calls it.
    torch_projector = projector_torch.TorchProjector("cpu")
    np.testing.assert_array_equal(torch_projector.forward_project(mu, 30), ours[0].numpy())
    np.testing.assert_array_equal(
        torch_projector.back_project(ours[[0, 0]].numpy(), windows), again
    )
