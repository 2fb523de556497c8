"""Streaks of few views are detected in scans of few views, and nowhere else."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.drawn_regions import abdomen

from clinreadnet.data.slices import find_slices
from clinreadnet.physics import measure_figures
from clinreadnet.physics.table import describe, figure_lines
from clinreadnet.physics.views import find_views

Image = NDArray[np.float32]


def noisy(hu: Image, sigma: float, seed: int = 0) -> Image:
    noise = np.random.default_rng(seed).normal(0, sigma, hu.shape)
    return np.asarray(np.rint(hu + noise), np.float32)


def scanned(hu: Image, views: int, photons: float, pixel_mm: float) -> Image:
    """Return a simulated parallel-beam scan with so many photons per detector cell."""
    from clinreadnet.simulator import projector, scan

    sinogram = projector.forward_project(scan.attenuation_per_pixel(hu, pixel_mm), views)
    noise = scan.add_noise(sinogram, photons, np.random.default_rng(views))
    window = scan.REFERENCE.window(projector.filter_length(512), pixel_mm)
    image = projector.back_project(noise[None], window)[0]
    image = image * (1000 / (scan.MU_WATER_PER_MM * pixel_mm)) - 1000
    return np.asarray(np.rint(image), np.float32)


@pytest.mark.parametrize("photons", [1e7, 2e5])
@pytest.mark.parametrize("views", [60, 120, 240, 720])
def test_the_views_of_a_simulated_scan_are_counted(views: int, photons: float) -> None:
    figures = measure_figures(scanned(abdomen(), views, photons, 0.75), 0.75)
    assert figures.view_share is not None
    if views == 720:
        assert (figures.views, figures.view_share) == (0, 0)
    else:
        assert figures.views == views and 0.05 < figures.view_share < 1
        assert figure_lines([(figures, "")])[0] == (
            f"1 of 1 slice: streaks of few views, {views} over half a turn."
        )
        assert describe(figures).endswith(f", streaks of {views} views")


@pytest.mark.parametrize("change", ["moved", "mirrored", "transposed", "clipped", "rounded to 4"])
def test_the_count_does_not_depend_on_how_a_slice_lies(change: str) -> None:
    hu = scanned(abdomen(), 120, 5e5, 0.75)
    changed = {
        "moved": np.roll(hu, (30, -20), (0, 1)),
        "mirrored": hu[:, ::-1],
        "transposed": hu.T,
        "clipped": hu.clip(-1000, 400),
        "rounded to 4": np.rint(hu / 4) * 4,
    }[change]
    assert measure_figures(np.ascontiguousarray(changed), 0.75).views == 120


def fan_beam_scan(hu: Image, sources: int, pixel_mm: float) -> Image:
    """Return a noisy fan-beam scan over a whole turn, reconstructed without rebinning.

    Kak and Slaney, "Principles of Computerized Tomographic Imaging", chapter 3.4.1, equal angles.
    """
    from clinreadnet.simulator import projector, scan

    views, size, far = 720, 512, 570 / pixel_mm
    parallel = projector.forward_project(scan.attenuation_per_pixel(hu, pixel_mm), views)
    parallel = scan.add_noise(parallel, 2e6, np.random.default_rng(0))
    turn = np.concatenate([parallel, parallel[:, ::-1], parallel[:1]])
    step = 1 / far
    angles = np.arange(-300, 300) * step
    offsets = np.arange(-1024, 1024)
    odd = offsets % 2 == 1
    ramp = np.where(offsets == 0, 1 / (8 * step**2), 0.0)
    ramp[odd] = -0.5 / (math.pi * np.sin(offsets[odd] * step)) ** 2
    response = np.fft.rfft(np.fft.ifftshift(ramp))
    y, x = (size - 1) / 2 - np.indices((size, size))
    x = -x
    image = np.zeros((size, size))
    cells = far * np.sin(angles) + (size - 1) / 2
    left = cells.astype(int).clip(0, size - 2)
    for source in 2 * math.pi * np.arange(sources) / sources:
        view = (source + angles) % (2 * math.pi) / math.pi * views
        row = view.astype(int)
        rays = sum(
            turn[row + dr, left + dc] * np.abs(1 - dr - view + row) * np.abs(1 - dc - cells + left)
            for dr in (0, 1)
            for dc in (0, 1)
        )
        rays = np.where((cells >= 0) & (cells <= size - 1), rays, 0) * far * np.cos(angles)
        filtered = np.fft.irfft(np.fft.rfft(rays, 2048) * response)[: len(angles)] * step
        across = x * math.cos(source) + y * math.sin(source)
        depth = far + x * math.sin(source) - y * math.cos(source)
        projection = np.interp(np.arctan2(across, depth), angles, filtered)
        image += projection / (across**2 + depth**2)
    image *= 2 * math.pi / sources * 1000 / (scan.MU_WATER_PER_MM * pixel_mm)
    return np.asarray(np.rint(image - 1000), np.float32)


def test_few_sources_of_a_fan_beam_are_seen_too() -> None:
    hu = abdomen()
    image = fan_beam_scan(hu, 180, 0.75)
    tissue = slice(230, 280)
    assert image[tissue, tissue].mean() == pytest.approx(hu[tissue, tissue].mean(), abs=10)
    assert measure_figures(image, 0.75).views == 180


@pytest.mark.parametrize("sigma", [0, 5, 30, 100])
def test_noise_and_anatomy_have_no_views(sigma: float) -> None:
    for pixel_mm in (0.4, 0.75, 0.98):
        figures = measure_figures(noisy(abdomen(), sigma), pixel_mm)
        assert (figures.views, figures.view_share) == (0, 0)


def test_pixels_that_are_too_large_for_the_band() -> None:
    hu = noisy(abdomen(), 20)
    assert find_views(hu, 1.7) is not None and find_views(hu, 2.0) is None
    figures = measure_figures(hu, 2.0)
    assert figures.views is None and "views: the pixels are too large" in figures.missing


@pytest.mark.skipif(
    "CLINREADNET_REAL_DATA" not in os.environ,
    reason="CLINREADNET_REAL_DATA does not name a folder of real slices",
)
@pytest.mark.parametrize("folder", ["abdomen-ge", "chest-lidc", "head-ge", "liver-dome", "tcga"])
def test_real_slices_have_no_streaks_of_few_views(folder: str) -> None:
    for ref in find_slices([Path(os.environ["CLINREADNET_REAL_DATA"]) / folder]):
        assert measure_figures(ref.load(), ref.loaded_mm).views == 0, ref.name
