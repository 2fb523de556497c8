"""Denoisers: noise and edges of a disc with coloured noise."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from clinreadnet.simulator.denoise import DENOISERS, penalised_fit, wavelet_shrinkage

NOISE_HU, STEP_HU, SIDE = 30.0, 200.0, 160


@pytest.fixture(scope="module")
def noisy():
    """[2, 160, 160] HU: two bright squares on soft tissue with noise, and without it."""
    still = np.full((SIDE, SIDE), 40.0)
    still[:, SIDE // 2 :] += STEP_HU
    grain = gaussian_filter(np.random.default_rng(0).standard_normal(still.shape), 0.8)
    return np.stack([still + NOISE_HU * grain / grain.std(), still]).astype(np.float32)


def flat(hu):
    """Even tissue away from the border and the edge."""
    return hu[16:-16, 16 : SIDE // 2 - 16]


def slope(hu):
    """Return the steepest mean step between neighbouring columns."""
    return np.diff(hu[16:-16].mean(axis=0)).max()


@pytest.mark.parametrize("name", DENOISERS)
def test_a_stronger_setting_removes_more_noise(noisy, name):
    mild, strong = (
        flat(DENOISERS[name].smooth(noisy[0], NOISE_HU, strength)).std()
        for strength in DENOISERS[name].strengths
    )
    assert strong < 0.55 * NOISE_HU and strong < mild < 0.95 * NOISE_HU


@pytest.mark.parametrize("name", DENOISERS)
def test_values_and_strong_edges_stay(noisy, name):
    low, high = DENOISERS[name].strengths
    hu = DENOISERS[name].smooth(noisy[0], NOISE_HU, (low + high) / 2)
    assert hu.shape == noisy[0].shape and hu.dtype == np.float32
    assert flat(hu).mean() == pytest.approx(40, abs=3)
    # A Gaussian filter that removes as much noise blurs the edge more.
    left = flat(hu).std()
    blurred = noisy[0]
    for sigma in np.arange(0.3, 4.0, 0.1):
        blurred = gaussian_filter(noisy[0], sigma)
        if flat(blurred).std() <= left:
            break
    assert slope(hu) > 1.3 * slope(blurred)


def test_a_penalised_fit_leaves_noise_of_lower_frequencies(noisy):
    def centroid(hu):
        power = np.abs(np.fft.fft2(flat(hu) - flat(hu).mean())) ** 2
        radius = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, power.shape), indexing="ij"))
        return (power * radius).sum() / power.sum()

    assert centroid(penalised_fit(noisy[0], NOISE_HU, 2.0)) < 0.85 * centroid(noisy[0])


def test_a_penalised_fit_is_the_least_of_its_function(noisy):
    def penalty(hu, strength, limit):
        total = 0.5 * np.sum((hu - noisy[0].astype(np.float64)) ** 2)
        for axis in (0, 1):
            step = np.abs(np.roll(hu, -1, axis) - hu)
            inner = np.minimum(step, limit)
            total += strength * np.sum(inner * (step - inner / 2))
        return total

    fit = penalised_fit(noisy[0], NOISE_HU, 2.0).astype(np.float64)
    least = penalty(fit, 2.0, NOISE_HU / 2)
    rng = np.random.default_rng(1)
    for size in (0.03, 0.3):
        for _ in range(5):
            change = gaussian_filter(size * rng.standard_normal(fit.shape), rng.uniform(0, 3))
            assert penalty(fit + change, 2.0, NOISE_HU / 2) > least


def test_wavelets_without_a_threshold_change_nothing(noisy):
    np.testing.assert_allclose(wavelet_shrinkage(noisy[0], NOISE_HU, 0.0), noisy[0], atol=1e-3)


def test_wavelets_keep_a_slice_without_soft_tissue():
    bone = np.full((64, 64), 350.0, np.float32)
    np.testing.assert_allclose(wavelet_shrinkage(bone, 20.0, 1.0), bone, atol=1e-3)
