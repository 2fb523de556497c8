"""Slices whose noise does not fit their dose or their score."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from support.whole import WHOLE

from clinreadnet.data.acquisition import Acquisition
from clinreadnet.physics import SliceFigures, measure_figures
from clinreadnet.physics.judge import expected_noise, remark

BODY = SliceFigures(noise_hu=12.0, water_diameter_cm=30.0)
DOSE = Acquisition(ctdi_vol_mgy=10.0, ctdi_phantom_cm=32.0, thickness_mm=5.0)


def test_noise_falls_with_dose_and_thickness_and_rises_with_size() -> None:
    noise = expected_noise(BODY, DOSE)
    assert noise == pytest.approx(6.1, abs=0.1)

    def ratio(figures: SliceFigures = BODY, **values: float | None) -> float:
        expected = expected_noise(figures, replace(DOSE, **values))
        assert expected is not None and noise is not None
        return expected / noise

    assert ratio(ctdi_vol_mgy=40.0) == pytest.approx(1 / 2)
    assert ratio(thickness_mm=1.25) == pytest.approx(2)
    assert ratio(replace(BODY, water_diameter_cm=38.0)) == pytest.approx(2, rel=0.01)
    assert ratio(ctdi_phantom_cm=16.0) == pytest.approx(math.sqrt(2))
    assert ratio(ctdi_phantom_cm=None) == 1
    assert ratio(ctdi_vol_mgy=None, exposure_mas=10 / 0.07) == pytest.approx(1)


@pytest.mark.parametrize(
    ("figures", "acquisition"),
    [
        (replace(BODY, water_diameter_cm=None), DOSE),
        (BODY, replace(DOSE, ctdi_vol_mgy=None)),
        (BODY, replace(DOSE, ctdi_vol_mgy=0.0)),
        (BODY, replace(DOSE, thickness_mm=None)),
        (BODY, replace(DOSE, thickness_mm=0.0)),
    ],
    ids=["size", "dose", "no-dose", "thickness", "no-thickness"],
)
def test_without_size_or_dose_no_noise_is_expected(
    figures: SliceFigures, acquisition: Acquisition
) -> None:
    assert expected_noise(figures, acquisition) is None
    assert remark(replace(figures, noise_hu=0.5), acquisition, 4.0) == ""


@pytest.mark.parametrize(
    ("noise", "score", "expected"),
    [
        (12, 3.9, ""),
        (12, 2.0, "low score for its noise of 12.0 HU"),
        (40, 2.4, ""),
        (40, 3.9, "high score for its noise of 40.0 HU"),
        (150, 0.1, ""),
        (150, 2.0, "high score for its noise of 150.0 HU"),
        (
            2,
            3.9,
            "looks denoised: noise of 2.0 HU, where 6.1 is expected for its size and dose",
        ),
        (
            2,
            1.0,
            "looks denoised: noise of 2.0 HU, where 6.1 is expected for its size and dose; "
            "low score for its noise of 2.0 HU",
        ),
        (None, 0.0, ""),
    ],
)
def test_a_remark_says_what_disagrees(noise: float | None, score: float, expected: str) -> None:
    assert remark(replace(BODY, noise_hu=noise), DOSE, score) == expected


def test_simulated_scans_are_told_from_denoised_copies() -> None:
    # Anatomies that the constants were not fitted to. The dose is that of the simulated photons.
    from clinreadnet.simulator.simulate import simulate_anatomy

    named: dict[bool, list[bool]] = {False: [], True: []}
    for anatomy in (1001, 1002) if WHOLE else (1001,):
        simulated = simulate_anatomy(4, anatomy)
        pixel_mm = simulated.clean.pixel_mm
        for scan in (s.made for s in simulated.slices):
            figures = measure_figures(scan.hu, pixel_mm)
            photons = scan.exposure * scan.views / pixel_mm  # for each mm of the detector
            dose = photons / 5.6e7 / 5
            acquisition = Acquisition(ctdi_vol_mgy=dose, ctdi_phantom_cm=32.0, thickness_mm=5.0)
            named[scan.denoiser is not None].append("denoised" in remark(figures, acquisition, 2.0))
            if scan.denoiser is None:  # the simulator's own truth
                assert figures.noise_hu is not None
                truth = math.hypot(scan.noise_hu, scan.streak_hu)
                assert 0.5 < figures.noise_hu / truth < 1.1
    assert sum(named[False]) == 0
    assert sum(named[True]) >= len(named[True]) / 2
