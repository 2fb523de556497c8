"""The part of the body that a header names, as a hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.dicom_files import noise, write_ct

from clinreadnet.data.header_region import Hint, read_hint
from clinreadnet.data.slices import find_slices


def hint(**tags: Any) -> Hint:
    return read_hint(lambda sequence, name: tags.get(name))


@pytest.mark.parametrize(
    ("tags", "part"),
    [
        ({"BodyPartExamined": "HEAD"}, "head"),
        ({"BodyPartExamined": "", "SeriesDescription": "CT BRAIN W/O 5mm"}, "head"),
        ({"ProtocolName": "01_HeadRoutine (Adult)", "BodyPartExamined": "BRAIN"}, "head"),
        ({"StudyDescription": "CT NECK SOFT TISSUE"}, "neck"),
        ({"BodyPartExamined": "KNEE"}, "limb"),
        ({"BodyPartExamined": "CHEST", "SeriesDescription": "LUNG"}, "chest"),
        ({"BodyPartExamined": "PHANTOM"}, "phantom"),
        # Abdomens of trials of the lung, as their headers name them.
        ({"BodyPartExamined": "CHEST", "ProtocolName": "01 Head Routine"}, ""),
        ({"BodyPartExamined": "LUNG", "SeriesDescription": "CheAbdPel  5.0  B30f"}, ""),
        ({"BodyPartExamined": "LUNG", "StudyDescription": "PET CT SKULL BASE TO MID-THIGH"}, ""),
        ({"BodyPartExamined": "LUNG", "ProtocolName": "5.2 CAP ALL WITH FEET FIRST"}, ""),
        ({"BodyPartExamined": "HEAD", "StudyDescription": "Abdomen"}, ""),
        ({"ProtocolName": "Abdomen, head first"}, ""),
        ({"BodyPartExamined": None, "ProtocolName": "Headway"}, ""),
        ({}, ""),
    ],
)
def test_a_part_is_named_if_all_fields_agree(tags: dict[str, Any], part: str) -> None:
    region = hint(**tags)
    assert region.part == part
    assert str(region).startswith(f"{part} by its header (") == bool(part)


@pytest.mark.parametrize(
    ("tags", "trunk"),
    [
        ({"BodyPartExamined": "ABDOMEN"}, True),
        ({"BodyPartExamined": "CHEST"}, True),
        ({"BodyPartExamined": "LUNG", "SeriesDescription": "CheAbdPel  5.0  B30f"}, True),
        ({"BodyPartExamined": "HEAD", "StudyDescription": "Abdomen"}, False),
        ({"BodyPartExamined": "WHOLEBODY"}, False),
        ({"BodyPartExamined": "KNEE"}, False),
        ({}, False),
    ],
)
def test_a_trunk_is_named_if_no_other_part_is(tags: dict[str, Any], trunk: bool) -> None:
    assert hint(**tags).trunk == trunk


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        (
            {"ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "RCBF"]},
            "a perfusion map by its header",
        ),
        ({"RescaleType": "MGML"}, "a map of other units than HU by its header"),
        ({"RescaleType": "HU", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, ""),
        ({"RescaleType": "US"}, ""),
    ],
)
def test_a_map_is_no_image_in_hounsfield_units(tags: dict[str, Any], text: str) -> None:
    assert str(hint(**tags)) == text


def test_a_damaged_value_says_nothing() -> None:
    def damaged(sequence: str, name: str) -> Any:
        raise ValueError(name)

    assert read_hint(damaged) == Hint()


def test_no_text_of_the_header_is_repeated() -> None:
    assert "Doe" not in str(hint(BodyPartExamined="HEAD", SeriesDescription="Doe^Jane brain"))


def test_slices_carry_the_hint_and_the_pixel_size_of_what_they_load(tmp_path: Path) -> None:
    (ref,) = find_slices([write_ct(tmp_path / "a.dcm", BodyPartExamined="HEAD")])
    assert ref.hint == Hint("head", "BodyPartExamined")
    assert ref.loaded_mm == ref.pixel_mm == 0.7
    wide = write_ct(tmp_path / "b.dcm", noise(0, (256, 1024)), PixelSpacing=[0.4, 0.4])
    (ref,) = find_slices([wide], resample=True)
    assert (ref.pixel_mm, ref.loaded_mm) == (0.4, 0.8)
