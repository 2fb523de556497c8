"""The figures against numbers of published implementations, which the tests do not need.

The diameters are `calculate_area_equivalent_diameter` of dicom-image-tools 25.0.0 (its mask: HU of
-500 and more, opened with a disc of 3 pixels, holes filled), the noise is the square root of the
integral of `noise_power_spectrum_2d` of pylinac 3.49.0 over 16 regions of 48x48 pixels.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support import drawn_regions

from clinreadnet.data.slices import find_slices
from clinreadnet.physics import measure_figures

DRAWN = {
    "abdomen": (0.75, 28.390),
    "chest": (0.75, 20.596),
    "dome": (0.75, 27.039),
    "head": (0.5, 18.589),
    "hips": (0.75, 29.593),
    "neck": (0.5, 12.243),
    "shoulders": (0.75, 24.994),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_the_diameter_of_drawn_slices(kind: str) -> None:
    pixel_mm, diameter_cm = DRAWN[kind]
    hu = np.rint(getattr(drawn_regions, kind)()).astype(np.float32)
    figures = measure_figures(hu, pixel_mm)
    assert figures.water_diameter_cm == pytest.approx(diameter_cm, rel=0.002)


@pytest.mark.parametrize(("sigma", "noise_hu"), [(5, 5.026), (15, 14.957), (40, 39.998)])
def test_the_noise_of_a_disc_of_water(sigma: int, noise_hu: float) -> None:
    y, x = np.indices((512, 512)) - 255.5
    disc = np.where(np.hypot(x, y) < 190, 20.0, -1000.0)
    hu = np.rint(disc + np.random.default_rng(sigma).normal(0, sigma, disc.shape))
    figures = measure_figures(hu.astype(np.float32), 0.8)
    assert figures.noise_hu == pytest.approx(noise_hu, rel=0.03)


SCANNED = {
    "abdomen-ge/CT20.dcm": 30.530,
    "abdomen-ge/CT22.dcm": 30.104,
    "chest-lidc/000035.dcm": 26.168,
    "chest-lidc/000055.dcm": 25.995,
    "head-ge/02.dcm": 18.783,
    "head-ge/05.dcm": 19.588,
    "head-ge/08.dcm": 19.900,
    "head-ge/14.dcm": 20.167,
    "tcga/ID_0010_AGE_0060_CONTRAST_1_CT.dcm": 27.521,
    "tcga/ID_0047_AGE_0069_CONTRAST_1_CT.dcm": 28.125,
    "tcga/ID_0071_AGE_0065_CONTRAST_0_CT.dcm": 30.320,
    "tcga/ID_0079_AGE_0071_CONTRAST_0_CT.dcm": 27.527,
    "tcga/ID_0082_AGE_0047_CONTRAST_0_CT.dcm": 25.556,
}
"""Slices of one body, which the field does not cut. The implementation measures one body alone."""


@pytest.mark.skipif(
    "CLINREADNET_REAL_DATA" not in os.environ,
    reason="CLINREADNET_REAL_DATA does not name a folder of real slices",
)
@pytest.mark.parametrize("name", SCANNED)
def test_the_diameter_of_real_slices(name: str) -> None:
    (ref,) = find_slices([Path(os.environ["CLINREADNET_REAL_DATA"]) / name])
    figures = measure_figures(ref.load(), ref.loaded_mm)
    assert figures.water_diameter_cm == pytest.approx(SCANNED[name], rel=0.01)
