"""The size-specific dose estimate, against printed tables and by the part that a slice shows."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from clinreadnet.data.acquisition import Acquisition
from clinreadnet.data.header_region import Hint
from clinreadnet.data.region import HEAD, TRUNK, find_region, with_header
from clinreadnet.data.slices import find_slices
from clinreadnet.physics import SliceFigures, measure_figures, with_dose
from clinreadnet.physics.dose import CONVERSIONS, HEAD_CONVERSION
from clinreadnet.physics.table import figure_lines

# Factors that AAPM 204 prints by effective diameter: table 1D from 8 to 45 cm, table 2D from 6 to
# 55 cm, in steps of 1 cm (as transcribed in ckswilliams/medphunc, medphunc/misc/ssde.csv).
TABLE_1D = (
    "2.76 2.66 2.57 2.47 2.38 2.30 2.22 2.14 2.06 1.98 1.91 1.84 1.78 1.71 1.65 1.59 1.53 "
    "1.48 1.43 1.37 1.32 1.28 1.23 1.19 1.14 1.10 1.06 1.02 0.99 0.95 0.92 0.88 0.85 0.82 "
    "0.79 0.76 0.74 0.71"
)
TABLE_2D = (
    "1.49 1.43 1.38 1.32 1.27 1.22 1.18 1.13 1.09 1.05 1.01 0.97 0.93 0.90 0.86 0.83 0.80 "
    "0.77 0.74 0.71 0.69 0.66 0.63 0.61 0.59 0.56 0.54 0.52 0.50 0.48 0.47 0.45 0.43 0.41 "
    "0.40 0.38 0.37 0.35 0.34 0.33 0.32 0.30 0.29 0.28 0.27 0.26 0.25 0.24 0.23 0.22"
)


@pytest.mark.parametrize(
    ("phantom", "least", "table"), [(32.0, 8, TABLE_1D), (16.0, 6, TABLE_2D)], ids=["1D", "2D"]
)
def test_every_factor_that_aapm_204_prints(phantom: float, least: int, table: str) -> None:
    printed = [float(number) for number in table.split()]
    conversion = CONVERSIONS[TRUNK, phantom]
    assert (conversion.least, conversion.most) == (least, least + len(printed) - 1)
    for index, factor in enumerate(printed):
        assert conversion.factor(least + index) == pytest.approx(factor, abs=0.005)
    assert conversion.factor(conversion.least - 0.01) is None
    assert conversion.factor(conversion.most + 0.01) is None


def test_aapm_204_overestimates_the_dose_of_a_small_head_by_up_to_12_percent() -> None:
    # "SSDE based on TG-204 overestimates the dose up to 12%", 296 heads of children, with a group
    # from 17 cm on (abstract of PubMed 35717776, 2022).
    trunk, head = CONVERSIONS[TRUNK, 16.0], CONVERSIONS[HEAD, 16.0]
    factors = [(trunk.factor(cm), head.factor(cm)) for cm in (14.0, 16.0, 17.0)]
    ratios = [a / b for a, b in factors if a is not None and b is not None]
    assert len(ratios) == len(factors)
    assert ratios == sorted(ratios)
    assert 1.08 < ratios[0] and ratios[-1] == pytest.approx(1.12, abs=0.005)


@pytest.mark.parametrize(
    ("diameter", "phantom", "factor"),
    # Tables 1D and 2D of AAPM 204.
    [(10, 32, 2.57), (20, 32, 1.78), (30, 32, 1.23), (40, 32, 0.85), (20, 16, 0.86)],
)
def test_size_specific_dose(diameter: float, phantom: float, factor: float) -> None:
    acquisition = Acquisition(ctdi_vol_mgy=10.0, ctdi_phantom_cm=phantom)
    figures = with_dose(SliceFigures(water_diameter_cm=diameter), acquisition)
    assert figures.ssde_mgy == pytest.approx(10 * factor, abs=0.06)
    assert figures.missing == ""


@pytest.mark.parametrize(
    ("diameter", "acquisition", "reason"),
    [
        (None, Acquisition(ctdi_vol_mgy=9.0, ctdi_phantom_cm=32.0), "no water-equivalent diameter"),
        (30.0, Acquisition(), "CTDIvol is not stated"),
        (30.0, Acquisition(ctdi_vol_mgy=0.0, ctdi_phantom_cm=32.0), "CTDIvol is not stated"),
        (30.0, Acquisition(ctdi_vol_mgy=9.0), "the phantom of CTDIvol is not stated"),
        (
            50.0,
            Acquisition(ctdi_vol_mgy=9.0, ctdi_phantom_cm=32.0),
            "its diameter is outside the tables",
        ),
    ],
    ids=["diameter", "dose", "zero", "phantom", "large"],
)
def test_a_slice_without_size_specific_dose_says_why(
    diameter: float | None, acquisition: Acquisition, reason: str
) -> None:
    figures = with_dose(SliceFigures(water_diameter_cm=diameter, missing="a: b"), acquisition)
    assert figures.ssde_mgy is None
    assert figures.missing.startswith(f"a: b; ssde_mgy: {reason}")


@pytest.mark.parametrize(
    ("part", "phantom", "name", "factor"),
    [
        (TRUNK, 32.0, "AAPM 204, 32 cm phantom", 3.704369 * math.exp(-0.03671937 * 17)),
        (TRUNK, 16.0, "AAPM 204, 16 cm phantom", 1.874799 * math.exp(-0.03871313 * 17)),
        (HEAD, 16.0, "AAPM 293, head, 16 cm phantom", 1.9852 * math.exp(-0.0486 * 17)),
    ],
)
def test_the_part_and_the_phantom_choose_the_conversion(
    part: str, phantom: float, name: str, factor: float
) -> None:
    acquisition = Acquisition(ctdi_vol_mgy=50.0, ctdi_phantom_cm=phantom)
    figures = with_dose(SliceFigures(water_diameter_cm=17.0), acquisition, part)
    assert figures.ssde_conversion == name and figures.missing == ""
    assert figures.ssde_mgy == pytest.approx(50 * factor)
    assert figure_lines([(figures, "")]) == [f"SSDE by {name} (1 of 1)."]


@pytest.mark.parametrize(
    ("part", "phantom", "reason"),
    [
        (HEAD, 32.0, "AAPM 293 converts CTDIvol of the 16 cm phantom alone"),
        ("", 16.0, "it shows neither trunk nor head"),
        ("", 32.0, "it shows neither trunk nor head"),
    ],
)
def test_a_part_without_a_conversion_has_no_dose(part: str, phantom: float, reason: str) -> None:
    acquisition = Acquisition(ctdi_vol_mgy=50.0, ctdi_phantom_cm=phantom)
    figures = with_dose(SliceFigures(water_diameter_cm=17.0), acquisition, part)
    assert figures.ssde_mgy is None and figures.ssde_conversion is None
    assert figures.missing == f"ssde_mgy: {reason}"


@pytest.mark.skipif(
    "CLINREADNET_REAL_DATA" not in os.environ,
    reason="CLINREADNET_REAL_DATA does not name a folder of real slices",
)
@pytest.mark.parametrize(
    ("folder", "part"), [("head-ge", HEAD), ("chest-lidc", TRUNK), ("tcga", TRUNK)]
)
def test_real_slices_get_the_conversion_of_their_part(folder: str, part: str) -> None:
    # The headers state no CTDIvol: it is made up.
    acquisition = Acquisition(ctdi_vol_mgy=50.0, ctdi_phantom_cm=16.0)
    for ref in find_slices([Path(os.environ["CLINREADNET_REAL_DATA"]) / folder]):
        hu = ref.load()
        pixels = find_region(hu, ref.loaded_mm)
        figures = with_dose(
            measure_figures(hu, ref.loaded_mm), acquisition, with_header(pixels, ref.hint).part
        )
        if figures.water_diameter_cm is not None:
            assert figures.ssde_conversion == CONVERSIONS[part, 16.0].name, ref.name
        if pixels.reason.startswith("bone encloses"):  # a skull without a header
            assert with_header(pixels, Hint()).part == HEAD
    assert HEAD_CONVERSION in CONVERSIONS.values()
