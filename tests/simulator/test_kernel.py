import numpy as np
import pytest

from clinreadnet.simulator.kernel import REFERENCE, Kernel, draw_kernel

# Share of the noise power at 0.125, 0.175, ..., 0.475 cycles a pixel over the largest, measured in
# the flattest tissue of scanned slices: kernel, pixel in mm.
SCANNED = {
    "B20f, 0.57 mm": (0.57, (0.73, 0.51, 0.29, 0.13, 0.05, 0.02, 0.01, 0.01)),
    "B20f, 0.77 mm": (0.77, (0.51, 0.29, 0.18, 0.10, 0.05, 0.02, 0.01, 0.01)),
    "B31f, 0.98 mm": (0.98, (0.62, 0.50, 0.42, 0.39, 0.34, 0.30, 0.25, 0.22)),
    "AB50, 0.65 mm": (0.65, (0.79, 0.66, 0.54, 0.40, 0.26, 0.14, 0.08, 0.04)),
    "STANDARD, 0.61 mm": (0.61, (0.99, 1.00, 0.96, 0.73, 0.48, 0.24, 0.09, 0.04)),
    "STANDARD, 0.81 mm": (0.81, (0.84, 1.00, 1.00, 0.95, 0.86, 0.69, 0.55, 0.41)),
    "BONE, 0.70 mm": (0.70, (0.46, 0.50, 0.53, 0.63, 0.71, 0.77, 0.90, 1.00)),
}


def noise_power(kernel: Kernel, pixel_mm: float) -> np.ndarray:
    """Return the noise of filtered back-projection: the ramp times the squared response."""
    f = np.arange(0.125, 0.5, 0.05)
    power = f * kernel.response((f / pixel_mm).astype(np.float32)) ** 2
    return power / power[0]


@pytest.mark.parametrize("name", SCANNED)
def test_the_drawn_kernels_cover_those_of_scanned_slices(name: str) -> None:
    pixel_mm, power = SCANNED[name]
    scanned = np.array(power) / power[0]
    rng = np.random.default_rng(0)
    drawn = np.stack([noise_power(draw_kernel(rng), pixel_mm) for _ in range(400)])
    # Some drawn kernel has this spectrum, as far as a few hundred pixels tell it.
    distance = np.abs(np.log(drawn + 0.02) - np.log(scanned + 0.02)).mean(axis=1)
    assert distance.min() < 0.35
    # And none of its frequencies lies outside of what is drawn.
    assert (scanned >= drawn.min(axis=0) - 0.02).all()
    assert (scanned <= drawn.max(axis=0) + 0.02).all()


def test_the_response_does_not_depend_on_the_pixel_size() -> None:
    for pixel_mm in (0.5, 1.0):
        window = REFERENCE.window(1024, pixel_mm)
        frequency = np.fft.rfftfreq(1024) / pixel_mm
        at = np.argmin(np.abs(frequency - REFERENCE.cutoff))
        assert window[at] == pytest.approx(np.exp(-1), abs=0.01)


def test_smoothing_is_the_kernel_in_two_dimensions() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((256, 256)).astype(np.float32)
    soft, sharp = (Kernel(cutoff, 1.5).smooth(noise, 0.7).std() for cutoff in (0.2, 2.0))
    assert soft < sharp / 2 < 1
    flat = np.full((64, 64), 40, np.float32)
    np.testing.assert_allclose(REFERENCE.smooth(flat, 0.7), flat, rtol=1e-5)


def test_kernels_go_from_soft_to_edge_enhancing() -> None:
    drawn = [draw_kernel(np.random.default_rng(s)) for s in range(400)]
    cutoffs = np.array([kernel.cutoff for kernel in drawn])
    assert cutoffs.min() < 0.18 and cutoffs.max() > 1.9
    assert np.mean(cutoffs < 0.34) == pytest.approx(0.40, abs=0.06)
    assert np.mean(cutoffs > 0.70) == pytest.approx(0.18, abs=0.05)
    assert any(kernel.boost > 0.3 for kernel in drawn)
    assert drawn[0] == draw_kernel(np.random.default_rng(0))
