"""Figures of slices, on phantoms with known figures and by a second implementation."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndi
from numpy.typing import NDArray
from support.drawn_regions import abdomen, abdomen_with_arms
from support.strange_slices import ellipse

from clinreadnet.data.slices import find_slices
from clinreadnet.physics import SliceFigures, measure_figures
from clinreadnet.physics.windows import window_sums

Image = NDArray[np.float32]


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 13])
def test_window_sums_are_those_of_every_window(side: int) -> None:
    image = np.random.default_rng(side).normal(0, 9, (40, 60)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(image, (side, side))
    sums = window_sums(image, side)
    np.testing.assert_allclose(sums, windows.sum(axis=(2, 3)), atol=1e-3)


def water(wide: float, tall: float, *, hu: float = 0, at: tuple[float, float] = (0, 0)) -> Image:
    """Return an ellipse of water in air; half-axes and centre in pixels."""
    return np.asarray(-1000 + ellipse(at, (wide, tall)) * (hu + 1000), np.float32)


def noisy(hu: Image, sigma: float, seed: int = 0) -> Image:
    noise = np.random.default_rng(seed).normal(0, sigma, hu.shape)
    return np.asarray(hu + noise, np.float32)


def padded(hu: Image, radius: float = 256) -> Image:
    """Return a slice whose field is a circle, as `SliceRef.load` returns it."""
    y, x = np.indices(hu.shape) - 255.5
    return np.asarray(np.where(np.hypot(x, y) > radius, -1000, hu), np.float32)


@pytest.mark.parametrize("pixel_mm", [0.5, 0.7, 0.98, None])
@pytest.mark.parametrize("radius", [120, 220])
@pytest.mark.parametrize("sigma", [2, 5, 12, 30, 60, 120])
def test_the_noise_of_a_water_disc(sigma: float, radius: float, pixel_mm: float | None) -> None:
    for seed, level in enumerate((0, 20, 60)):
        figures = measure_figures(noisy(water(radius, radius, hu=level), sigma, seed), pixel_mm)
        assert figures.noise_hu == pytest.approx(sigma, rel=0.03)


def test_the_side_of_the_noise_kernel_is_near_6_mm() -> None:
    hu = noisy(water(200, 200), 10)
    sides = {mm: measure_figures(hu, mm).noise_kernel_mm for mm in (0.5, 0.7, 0.98)}
    assert sides == {0.5: 6.0, 0.7: pytest.approx(5.6), 0.98: pytest.approx(5.88)}
    assert measure_figures(hu).noise_kernel_mm is None


def test_edges_do_not_move_the_noise() -> None:
    rng = np.random.default_rng(1)
    hu = water(220, 160, hu=50)
    for _ in range(60):  # vessels and organs in the middle
        cover = ellipse(tuple(rng.uniform(-90, 90, 2)), tuple(rng.uniform(3, 12, 2)))
        hu = np.asarray(hu + cover * rng.uniform(-80, 60), np.float32)
    assert measure_figures(noisy(hu, 15), 0.7).noise_hu == pytest.approx(15, rel=0.05)


def test_a_slice_without_noise_or_without_soft_tissue() -> None:
    assert measure_figures(water(200, 200, hu=40), 0.7).noise_hu == 0
    fat = measure_figures(noisy(water(200, 200, hu=-100), 5), 0.7)
    assert fat.noise_hu is None and fat.streak_hu is None
    assert fat.missing == (
        "noise_hu: no soft tissue of 0 to 100 HU; streak_hu: no even soft tissue"
    )


@pytest.mark.parametrize("level", [0, 55, -100])
@pytest.mark.parametrize(("wide", "tall"), [(60, 60), (150, 100), (210, 140), (120, 220)])
@pytest.mark.parametrize("pixel_mm", [0.55, 0.98])
def test_the_diameter_of_an_ellipse(
    wide: float, tall: float, level: float, pixel_mm: float
) -> None:
    area = math.pi * wide * tall * pixel_mm**2 / 100  # cm2
    expected = 2 * math.sqrt((level / 1000 + 1) * area / math.pi)
    for sigma in (0, 40):
        figures = measure_figures(noisy(water(wide, tall, hu=level), sigma), pixel_mm)
        assert figures.water_diameter_cm == pytest.approx(expected, rel=0.01)
        assert figures.cut == 0


def test_lungs_bone_and_arms_count_by_their_density() -> None:
    hu = water(150, 100) - 800 * ellipse((-60, 0), (40, 60)) + 1200 * ellipse((0, 60), (20, 20))
    arms = sum(water(30, 40, at=(side * 205, 0)) + 1000 for side in (-1, 1))
    expected = [(150 * 100 - 0.8 * 40 * 60 + 1.2 * 20 * 20) ** 0.5]
    expected.append((expected[0] ** 2 + 2 * 30 * 40) ** 0.5)
    diameters = [measure_figures(image, 1.0).water_diameter_cm for image in (hu, hu + arms)]
    assert diameters == [pytest.approx(2 * side / 10, rel=0.01) for side in expected]


def test_a_table_does_not_count() -> None:
    body = water(200, 130)
    table = body.copy()
    table[400:412, 40:470] = -300
    hollow = body.copy()
    hollow[400:480, 60:450] = 100
    hollow[408:472, 68:442] = -1000
    without = measure_figures(body, 0.7).water_diameter_cm
    for slice_ in (table, hollow):
        figures = measure_figures(slice_, 0.7)
        assert figures.water_diameter_cm == pytest.approx(without, rel=0.01)
        assert figures.cut == 0


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_share_of_a_circular_field_that_cuts_the_body(share: float) -> None:
    # An ellipse crosses the circle of radius 256 where its radius is 256.
    angle = math.pi / 2 * share
    wide = 1000.0  # so that they cross steeply
    tall = math.sin(angle) / math.sqrt(1 / 256**2 - (math.cos(angle) / wide) ** 2)
    figures = measure_figures(padded(noisy(water(wide, tall, hu=40), 10)), 0.7)
    assert figures.cut == pytest.approx(share, abs=0.02)
    assert (figures.water_diameter_cm is None) == (share > 0.1)
    assert ("water_diameter_cm: the field cuts the body" in figures.missing) == (share > 0.1)


def test_the_share_of_a_square_field_and_of_none() -> None:
    assert measure_figures(noisy(water(150, 1000, hu=40), 10), 0.7).cut == pytest.approx(
        2 * 300 / (4 * 512), abs=0.02
    )
    assert measure_figures(padded(noisy(water(240, 200, hu=40), 10)), 0.7).cut == 0


def test_a_body_in_clipped_air_is_not_cut() -> None:
    assert measure_figures(water(200, 200, hu=40), 0.7).cut == 0


def test_air_and_fat_are_means_of_pure_material() -> None:
    hu = noisy(abdomen(), 20)
    hu[hu < -800] += 12  # an error of the scale in air
    figures = measure_figures(padded(hu), 0.75)
    assert figures.air_hu == pytest.approx(-988, abs=1)
    assert figures.fat_hu == pytest.approx(-100, abs=1)


def test_padding_is_not_air() -> None:
    figures = measure_figures(abdomen(), 0.75)  # air of exactly -1000 HU around the body
    assert figures.air_hu is None and "air_hu: no air around the body" in figures.missing


def streaked(hu: Image, amplitude: float, degrees: float) -> Image:
    y, x = np.indices(hu.shape) - 255.5
    turn = math.radians(degrees)
    across = x * math.sin(turn) + y * math.cos(turn)
    values = np.random.default_rng(5).normal(0, amplitude, 200)
    pattern = np.interp(across, np.linspace(-400, 400, 200), values)
    return np.asarray(hu + np.where(hu > -500, pattern, 0), np.float32)


@pytest.mark.parametrize("sigma", [5, 20, 60])
@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_streaks_separate_from_noise(sigma: float, degrees: float) -> None:
    disc = water(190, 190, hu=50)
    without = measure_figures(noisy(disc, sigma), 0.7).streak_hu
    figures = measure_figures(noisy(streaked(disc, sigma, degrees), sigma), 0.7)
    assert without is not None and without < 0.06 * sigma
    assert figures.streak_hu is not None and figures.streak_hu > 0.25 * sigma
    assert figures.streak_deg is not None
    apart = abs(figures.streak_deg - degrees)
    assert min(apart, 180 - apart) <= 7.5


def scanned(hu: Image, photons: float, pixel_mm: float = 0.8) -> Image:
    """Return a simulated scan with so many photons per detector cell."""
    from clinreadnet.simulator import projector, scan

    sinogram = projector.forward_project(scan.attenuation_per_pixel(hu, pixel_mm), 720)
    noisy = scan.add_noise(sinogram, photons, np.random.default_rng(0))
    window = scan.REFERENCE.window(projector.filter_length(512), pixel_mm)
    image = projector.back_project(noisy[None], window)[0]
    return np.asarray(image * (1000 / (scan.MU_WATER_PER_MM * pixel_mm)) - 1000, np.float32)


@pytest.mark.parametrize("photons", [1e6, 5e4])
def test_too_few_photons_along_a_wide_body_make_streaks_along_rows(photons: float) -> None:
    arms = water(220, 140, hu=50)
    for side in (-1, 1):
        arm = 1050 * ellipse((side * 235, 0), (18, 30)) + 900 * ellipse((side * 235, 0), (8, 8))
        arms = np.maximum(arms, np.asarray(arm - 1000, np.float32))
    disc, wide = (
        measure_figures(scanned(hu, photons), 0.8) for hu in (water(150, 150, hu=50), arms)
    )
    assert disc.streak_hu is not None and disc.noise_hu is not None
    assert disc.streak_hu < 0.08 * disc.noise_hu
    assert wide.streak_hu is not None and wide.noise_hu is not None
    assert wide.streak_hu > (0.2 if photons > 1e5 else 0.5) * wide.noise_hu
    assert wide.streak_deg is not None
    assert min(wide.streak_deg, 180 - wide.streak_deg) <= 7.5


def test_metal_does_not_move_the_noise() -> None:
    hips = water(200, 140, hu=50) + 2950 * sum(
        ellipse((side * 110, 0), (12, 12)) for side in (-1, 1)
    )
    clean = measure_figures(noisy(np.asarray(hips, np.float32), 12), 0.7)
    assert clean.noise_hu == pytest.approx(12, rel=0.03)
    water_alone = measure_figures(noisy(water(200, 140, hu=50), 12), 0.7).water_diameter_cm
    assert clean.water_diameter_cm is not None and water_alone is not None
    more = 2 * 2.95 / 1.05 * 12 * 12 / (200 * 140)
    assert clean.water_diameter_cm / water_alone == pytest.approx(math.sqrt(1 + more), rel=0.01)


def test_without_a_body_and_without_a_pixel_size() -> None:
    nothing = measure_figures(noisy(water(10, 10), 10), 0.7)
    assert nothing == SliceFigures(missing="all: no body")
    unsized = measure_figures(noisy(abdomen(), 20))
    assert unsized.noise_hu is not None and unsized.cut == 0 and unsized.air_hu is not None
    assert unsized.water_diameter_cm is unsized.fat_hu is unsized.streak_hu is None
    assert unsized.missing.count("the size of a pixel is not known") == 4


# An implementation of its own: scipy's morphology on pixels, every window, a linear histogram.


def own_body(hu: Image) -> NDArray[np.bool_]:
    solid = ndi.binary_fill_holes(ndi.uniform_filter(hu, 4) > -400)
    parts, count = ndi.label(ndi.binary_opening(solid, np.ones((19, 19))))
    sizes = np.bincount(parts.ravel(), minlength=2)[1:]
    dense = ndi.mean(hu, parts, range(1, count + 1)) > -500  # a hollow table is not
    return np.isin(parts, 1 + np.flatnonzero((sizes >= 0.005 * hu.size)[:count] & dense))


def own_noise(hu: Image, pixel_mm: float) -> float:
    side = 2 * round(6 / (2 * pixel_mm))
    windows = np.lib.stride_tricks.sliding_window_view(hu.astype(np.float64), (side, side))
    inside = own_body(hu)[side // 2 :, side // 2 :][: len(windows), : len(windows)]
    mean = ndi.uniform_filter(hu.astype(np.float64), side, origin=0)
    mean = mean[side // 2 :, side // 2 :][: len(windows), : len(windows)]
    rows, columns = np.nonzero(inside & (mean >= 0) & (mean <= 100))
    deviations = np.array(
        [windows[r, c].std(ddof=1) for r, c in zip(rows[::3], columns[::3], strict=True)]
    )
    edges = np.linspace(0, 4 * np.median(deviations), 400)
    counts = ndi.gaussian_filter1d(np.histogram(deviations, edges)[0].astype(float), 8)
    return float(edges[counts.argmax()])


def own_diameter(hu: Image, pixel_mm: float) -> float:
    body = ndi.binary_dilation(own_body(hu), iterations=3)
    return 2 * math.sqrt(((hu[body] / 1000 + 1) * pixel_mm**2).sum() / math.pi) / 10


@pytest.mark.parametrize("sigma", [6, 25, 70])
@pytest.mark.parametrize("draw", [abdomen, abdomen_with_arms])
def test_an_implementation_of_its_own_agrees(draw: Callable[[], Image], sigma: float) -> None:
    hu = noisy(draw(), sigma)
    figures = measure_figures(hu, 0.75)
    assert figures.noise_hu == pytest.approx(own_noise(hu, 0.75), rel=0.04)
    assert figures.water_diameter_cm == pytest.approx(own_diameter(hu, 0.75), rel=0.01)


REAL = pytest.mark.skipif(
    "CLINREADNET_REAL_DATA" not in os.environ,
    reason="CLINREADNET_REAL_DATA does not name a folder of real slices",
)


@REAL
@pytest.mark.parametrize("folder", ["abdomen-ge", "liver-dome", "tcga"])
def test_an_implementation_of_its_own_agrees_on_real_slices(folder: str) -> None:
    for ref in find_slices([Path(os.environ["CLINREADNET_REAL_DATA"]) / folder]):
        hu, pixel_mm = ref.load(), ref.loaded_mm
        assert pixel_mm is not None
        figures = measure_figures(hu, pixel_mm)
        assert figures.noise_hu == pytest.approx(own_noise(hu, pixel_mm), rel=0.15), ref.name
        if figures.water_diameter_cm is not None and figures.cut == 0:
            assert figures.water_diameter_cm == pytest.approx(
                own_diameter(hu, pixel_mm), rel=0.015
            ), ref.name


@REAL
def test_real_slices_have_plausible_figures() -> None:
    for ref in find_slices([Path(os.environ["CLINREADNET_REAL_DATA"]) / "tcga"]):
        figures = measure_figures(ref.load(), ref.loaded_mm)
        assert figures.noise_hu is not None and 4 < figures.noise_hu < 60, ref.name
        assert figures.air_hu is not None and -1010 < figures.air_hu < -930, ref.name


def test_the_time_of_a_slice() -> None:
    # 4 to 5 ms on one core of a server; a busy machine gets three times as long.
    hu = noisy(abdomen(), 20)
    seconds = []
    for _ in range(10):
        start = time.process_time()
        measure_figures(hu, 0.75)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.015


def test_figures_are_plain_numbers() -> None:
    figures = measure_figures(noisy(abdomen(), 20), 0.75)
    assert all(type(value) in (float, str, type(None)) for value in vars(figures).values())
    assert replace(figures, ssde_mgy=1.0) != figures
