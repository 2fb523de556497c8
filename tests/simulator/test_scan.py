from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from clinreadnet.simulator.clean import scanned_slice
from clinreadnet.simulator.phantom.draw import draw_phantom
from clinreadnet.simulator.scan import (
    COPIES,
    DEGRADATIONS,
    EXPOSURES,
    MU_WATER_PER_MM,
    REFERENCE_SHARPNESS,
    SCANS,
    VIEWS,
    Detail,
    Protocol,
    add_noise,
    attenuation_per_pixel,
    degrade,
    draw_protocol,
)

PROTOCOL = Protocol(EXPOSURES, 0.0)


def noise_stream(k):
    return np.random.default_rng((2, k))


@pytest.fixture(scope="module")
def phantom():
    return draw_phantom(3, 2)


@pytest.fixture(scope="module")
def everything(phantom):
    return degrade(phantom, PROTOCOL, noise_stream)


@pytest.fixture(scope="module")
def degraded(everything):
    return everything[:SCANS]


@pytest.fixture(scope="module")
def copies(everything):
    return everything[SCANS:]


def test_twelve_levels_times_views(degraded, everything):
    assert len(degraded) == SCANS == 12 and len(everything) == DEGRADATIONS == SCANS + COPIES
    assert all(made.denoiser is None and made.source is None for made in degraded)
    assert [made.views for made in degraded] == list(VIEWS) * 4
    exposures = [made.exposure for made in degraded[:: len(VIEWS)]]
    assert exposures == sorted(exposures, reverse=True)


def test_noise_rises_as_dose_and_views_fall(degraded):
    noise = np.array([made.noise_hu for made in degraded]).reshape(len(EXPOSURES), len(VIEWS))
    assert (np.diff(noise, axis=0) > 0).all() and (np.diff(noise, axis=1) > 0).all()
    # Independent views average: noise goes as one over the root of their number.
    expected = np.sqrt(VIEWS[0] / np.array(VIEWS))
    np.testing.assert_allclose(
        noise / noise[:, :1], np.broadcast_to(expected, noise.shape), rtol=0.1
    )


def test_streaks_come_from_missing_views_alone(degraded):
    streaks = np.array([made.streak_hu for made in degraded]).reshape(len(EXPOSURES), len(VIEWS))
    assert (streaks == streaks[0]).all()
    assert streaks[0, 0] == 0 < streaks[0, 1] < streaks[0, 2]
    assert streaks[0, 2] > 4


def test_values_are_unbiased(phantom, degraded):
    for made in degraded[:3]:
        assert abs(np.mean((made.hu - phantom.hu)[phantom.tissue])) < 3


def test_measured_noise_is_that_of_the_image(phantom, degraded):
    # The noisiest image against the clean slice; streaks and blur add little in even tissue.
    made = degraded[9]
    error = (made.hu - phantom.hu)[phantom.tissue].std()
    assert error == pytest.approx(made.noise_hu, rel=0.05)


def test_a_degradation_does_not_depend_on_the_others(phantom, everything):
    for k in (0, 7, 14):
        (alone,) = degrade(phantom, PROTOCOL, noise_stream, [k])
        assert alone.hu.tobytes() == everything[k].hu.tobytes()
        assert replace(alone, hu=everything[k].hu) == everything[k]


def test_a_sharper_filter_keeps_edges_and_noise(phantom, degraded):
    (sharp,) = degrade(phantom, Protocol(EXPOSURES, 0.5), noise_stream, [0])
    (soft,) = degrade(phantom, Protocol(EXPOSURES, 0.0, 0.8), noise_stream, [0])
    for loss in ("edge_loss", "detail_loss"):
        assert getattr(sharp, loss) < getattr(degraded[0], loss) < getattr(soft, loss)
    assert sharp.noise_hu > degraded[0].noise_hu > soft.noise_hu


def test_a_kernel_beyond_the_reference_loses_nothing_and_has_fine_noise(phantom, degraded):
    (ramp,) = degrade(phantom, Protocol(EXPOSURES, 1.0), noise_stream, [0])
    assert ramp.edge_loss == 0 == ramp.detail_loss

    def neighbours(hu):
        error = (hu - phantom.hu)[phantom.tissue.any(axis=1)]
        inside = phantom.tissue[phantom.tissue.any(axis=1)][:, 1:]
        return np.corrcoef(error[:, 1:][inside], error[:, :-1][inside])[0, 1]

    assert neighbours(ramp.hu) < neighbours(degraded[0].hu) - 0.2


def test_copies_take_turns_and_come_from_all_doses(copies):
    assert [made.denoiser for made in copies] == ["nlm", "bilateral"] * 2
    assert [made.source // 3 for made in copies] == [0, 1, 2, 3]


def test_a_copy_has_less_noise_and_less_detail_than_its_source(copies, degraded):
    for made in copies:
        source = degraded[made.source]
        assert (made.exposure, made.views) == (source.exposure, source.views)
        assert made.noise_hu < 0.8 * source.noise_hu
        assert made.streak_hu <= source.streak_hu
        assert made.detail_loss > source.detail_loss + 0.03


def test_noise_is_not_booked_as_detail(phantom, degraded):
    detail = Detail(phantom, phantom.hu)
    # Noise alone leaves the losses where the noise-free reconstruction has them; blur does not.
    noisy = phantom.hu + np.random.default_rng(0).normal(0, 15, phantom.hu.shape)
    assert detail.losses(phantom.hu) == pytest.approx((0, 0), abs=1e-6)
    assert detail.losses(noisy.astype(np.float32)) == pytest.approx((0, 0), abs=0.08)
    assert detail.losses(gaussian_filter(phantom.hu, 1.5))[1] > 0.3


def test_own_noise_of_a_scanned_slice_is_no_detail(phantom):
    rng = np.random.default_rng(1)
    grain = gaussian_filter(rng.standard_normal(phantom.hu.shape), 0.7)
    own = phantom.hu + (14 * grain / grain.std()).astype(np.float32)
    scanned = scanned_slice(own, phantom.pixel_mm)
    assert (scanned.body == phantom.body).mean() > 0.98
    assert 0.5 < scanned.tissue.sum() / phantom.tissue.sum() < 2
    # Take away its noise and nothing else: hardly any detail is gone, where it would be most of it
    # if noise were taken for structure.
    assert Detail(scanned, own).losses(phantom.hu)[1] < 0.3
    assert Detail(replace(scanned, structure=own), own).losses(phantom.hu)[1] > 0.5


@pytest.mark.parametrize("path", [0.0, 2.0, 5.0], ids=["air", "thin", "thick"])
def test_noise_follows_the_counts(path):
    exposure = 1e5
    sinogram = np.full((100, 200), path, np.float32)
    noisy = add_noise(sinogram, exposure, np.random.default_rng(0))
    expected_counts = exposure * np.exp(-path)
    assert noisy.mean() == pytest.approx(path, abs=1e-3)
    # Poisson, plus the electronic noise of ten counts.
    assert noisy.std() == pytest.approx(np.sqrt(expected_counts + 100) / expected_counts, rel=0.03)


def test_starved_rays_stay_finite():
    noisy = add_noise(np.full((20, 20), 30.0, np.float32), 1e4, np.random.default_rng(0))
    assert np.isfinite(noisy).all() and noisy.max() <= np.log(1e4) + 1e-5


def test_attenuation_of_water_and_air():
    hu = np.array([[0.0, -1000.0, -1200.0, 1000.0]], np.float32)
    mu = attenuation_per_pixel(hu, 0.8)
    water = MU_WATER_PER_MM * 0.8
    np.testing.assert_allclose(mu, [[water, 0, 0, 2 * water]], rtol=1e-6)


def test_protocol_varies_and_repeats():
    first, again, other = (draw_protocol(np.random.default_rng(s)) for s in (1, 1, 2))
    assert first == again != other
    assert list(first.exposures) == sorted(first.exposures, reverse=True)


def test_kernels_go_from_soft_to_edge_enhancing():
    drawn = [draw_protocol(np.random.default_rng(s)) for s in range(400)]
    assert all(len(p.exposures) == len(EXPOSURES) for p in drawn)
    soft = np.array([p.softness for p in drawn])
    sharp = np.array([p.sharpness for p in drawn])
    assert soft.max() <= 1.0 and 1.4 < sharp.max() <= 1.5
    assert not np.any((soft > 0) & (sharp > 0))
    assert np.mean(soft > 0) == pytest.approx(0.45, abs=0.06)
    assert np.mean(sharp > REFERENCE_SHARPNESS) == pytest.approx(0.15, abs=0.05)
