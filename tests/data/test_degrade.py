import numpy as np
import pytest

from clinreadnet.data.degrade import (
    DEGRADATIONS,
    EXPOSURES,
    MU_WATER_PER_MM,
    VIEWS,
    Protocol,
    add_noise,
    attenuation_per_pixel,
    degrade,
    draw_protocol,
)
from clinreadnet.data.phantom import draw_phantom

PROTOCOL = Protocol(EXPOSURES, 0.0)


def noise_stream(k):
    return np.random.default_rng((2, k))


@pytest.fixture(scope="module")
def phantom():
    return draw_phantom(3, 2)


@pytest.fixture(scope="module")
def degraded(phantom):
    return degrade(phantom, PROTOCOL, noise_stream)


def test_twelve_levels_times_views(degraded):
    assert len(degraded) == DEGRADATIONS == 12
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


def test_a_degradation_does_not_depend_on_the_others(phantom, degraded):
    for k in (0, 7):
        (alone,) = degrade(phantom, PROTOCOL, noise_stream, [k])
        assert alone.views == degraded[k].views
        assert alone.hu.tobytes() == degraded[k].hu.tobytes()
        assert (alone.noise_hu, alone.streak_hu) == (degraded[k].noise_hu, degraded[k].streak_hu)


def test_a_sharper_filter_keeps_edges_and_noise(phantom, degraded):
    (sharp,) = degrade(phantom, Protocol(EXPOSURES, 0.5), noise_stream, [0])
    assert sharp.edge_loss < degraded[0].edge_loss
    assert sharp.noise_hu > degraded[0].noise_hu


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
    assert 0 <= first.sharpness <= 0.5 and len(first.exposures) == len(EXPOSURES)
