from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from clinreadnet.simulator import projector
from clinreadnet.simulator.clean import scanned_slice
from clinreadnet.simulator.kernel import REFERENCE, Kernel
from clinreadnet.simulator.measure import Detail
from clinreadnet.simulator.phantom.draw import draw_phantom
from clinreadnet.simulator.scan import (
    COPIES,
    DEGRADATIONS,
    MU_WATER_PER_MM,
    NOISE_LEVELS,
    SCANS,
    VIEWS,
    Protocol,
    add_noise,
    attenuation_per_pixel,
    degrade,
    draw_protocol,
    exposure_for,
)

PROTOCOL = Protocol()
SOFT, BONE = Kernel(0.2, 1.2), Kernel(1.8, 1.5, 0.4)


def noise_stream(k):
    return np.random.default_rng((2, k))


@pytest.fixture(scope="module")
def phantom():
    return draw_phantom(3, 2, 0.4)


@pytest.fixture(scope="module")
def everything(phantom):
    return degrade(phantom, PROTOCOL, noise_stream)


@pytest.fixture(scope="module")
def degraded(everything):
    return everything[:SCANS]


@pytest.fixture(scope="module")
def copies(everything):
    return everything[SCANS:]


@pytest.mark.whole
def test_twelve_levels_times_views(degraded, everything):
    assert len(degraded) == SCANS == 12 and len(everything) == DEGRADATIONS == SCANS + len(COPIES)
    assert all(made.denoiser is None and made.source is None for made in degraded)
    assert [made.views for made in degraded] == list(VIEWS) * 4
    exposures = [made.exposure for made in degraded[:: len(VIEWS)]]
    assert exposures == sorted(exposures, reverse=True)


def test_noise_rises_as_dose_and_views_fall(degraded):
    noise = np.array([made.noise_hu for made in degraded]).reshape(len(NOISE_LEVELS), len(VIEWS))
    assert (np.diff(noise, axis=0) > 0).all() and (np.diff(noise, axis=1) > 0).all()
    # Independent views average: noise goes as one over the root of their number.
    expected = np.sqrt(VIEWS[0] / np.array(VIEWS))
    np.testing.assert_allclose(
        noise / noise[:, :1], np.broadcast_to(expected, noise.shape), rtol=0.1
    )


def test_streaks_come_from_missing_views_alone(degraded):
    streaks = np.array([made.streak_hu for made in degraded]).reshape(len(NOISE_LEVELS), len(VIEWS))
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


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("k", [14, 7, 0])
def test_a_degradation_does_not_depend_on_the_others(phantom, everything, k):
    (alone,) = degrade(phantom, PROTOCOL, noise_stream, [k])
    assert alone.hu.tobytes() == everything[k].hu.tobytes()
    assert replace(alone, hu=everything[k].hu) == everything[k]


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("kernel", [SOFT, REFERENCE, BONE], ids=["soft", "standard", "bone"])
@pytest.mark.parametrize("pixel_mm", [0.6, 0.97], ids=["narrow", "wide"])
def test_the_noise_is_what_the_protocol_asks_for(phantom, kernel, pixel_mm):
    asked = (14.0, 40.0)
    clean = replace(phantom, pixel_mm=pixel_mm)
    made = degrade(clean, Protocol((*asked, 50.0, 60.0), kernel), noise_stream, [0, 3])
    for degradation, hu in zip(made, asked, strict=True):
        assert degradation.noise_hu == pytest.approx(hu, rel=0.35)
        # The kernel is the protocol's choice: it loses nothing that it was meant to show.
        assert degradation.edge_loss == 0 == degradation.detail_loss
    assert made[0].exposure > made[1].exposure


def test_a_soft_kernel_needs_fewer_photons_for_the_same_noise(phantom):
    sinogram = np.full((90, 512), 5.0, np.float32)
    length = projector.filter_length(512)
    soft, standard, bone = (
        exposure_for(20.0, sinogram, kernel.window(length, 0.7), 7e4)
        for kernel in (SOFT, REFERENCE, BONE)
    )
    assert soft < standard / 2 < bone / 4


def test_no_image_is_starved_of_photons():
    thick = np.full((90, 512), 11.0, np.float32)
    window = SOFT.window(projector.filter_length(512), 0.7)
    assert exposure_for(500.0, thick, window, 7e4) * np.exp(-11.0) == pytest.approx(25, rel=1e-3)


def test_a_bone_kernel_has_fine_noise(phantom, degraded):
    (bone,) = degrade(phantom, Protocol(kernel=BONE), noise_stream, [0])

    def neighbours(hu):
        error = (hu - phantom.hu)[phantom.tissue.any(axis=1)]
        inside = phantom.tissue[phantom.tissue.any(axis=1)][:, 1:]
        return np.corrcoef(error[:, 1:][inside], error[:, :-1][inside])[0, 1]

    assert neighbours(bone.hu) < neighbours(degraded[0].hu) - 0.2


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


@pytest.mark.whole
def test_own_noise_of_a_scanned_slice_adds_in_quadrature(phantom):
    rng = np.random.default_rng(4)
    grain = (30 * rng.standard_normal(phantom.hu.shape)).astype(np.float32)
    noisy = np.where(phantom.body, phantom.hu + grain, phantom.hu)
    own = replace(phantom, hu=noisy)
    (clean_scan,) = degrade(phantom, PROTOCOL, noise_stream, [0])
    (scan,) = degrade(own, PROTOCOL, noise_stream, [0])
    left = REFERENCE.smooth(noisy - phantom.hu, phantom.pixel_mm)[phantom.tissue].std()
    assert scan.noise_hu == pytest.approx(np.hypot(clean_scan.noise_hu, left), rel=0.03)
    # And it lowers the quality of the tiles.
    body = scan.tiles.weight > 0.5
    assert (scan.tiles.quality[body] < clean_scan.tiles.quality[body]).mean() > 0.95


def test_protocol_varies_and_repeats():
    first, again, other = (draw_protocol(np.random.default_rng(s)) for s in (1, 1, 2))
    assert first == again != other
    assert list(first.noise_hu) == sorted(first.noise_hu)
    assert len(first.noise_hu) == len(NOISE_LEVELS)


def test_a_scanned_slice_as_it_is_has_its_own_noise_alone(phantom):
    rng = np.random.default_rng(4)
    grain = (20 * rng.standard_normal(phantom.hu.shape)).astype(np.float32)
    own = replace(phantom, hu=np.where(phantom.body, phantom.hu + grain, phantom.hu))
    made = degrade(own, PROTOCOL, noise_stream, range(16), original=True)
    assert made[0].hu is own.hu and not np.isfinite(made[0].exposure)
    assert made[0].measured == (own.own_noise_hu, 0.0, 0.0, 0.0)
    assert own.own_noise_hu == pytest.approx(20, rel=0.05)
    body = made[0].tiles.weight > 0.5
    assert np.ptp(made[0].tiles.quality[body]) < 0.2
    # A copy is measured against the scan that it was made from.
    assert all(copy.source >= 1 for copy in made[SCANS:])
