"""Quality maps have the positions of their slices, and captures have the data of the page."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from support.dicom_files import SERIES, noise, write_ct, write_enhanced_ct, write_series

from clinreadnet.data.region import find_body
from clinreadnet.dicom.codes import QUALITY_MAP
from clinreadnet.dicom.quality_map import check_geometry, draw_overlay, write_captures, write_maps
from clinreadnet.dicom.sources import make_sources
from clinreadnet.errors import InputError
from clinreadnet.runtime import Session
from clinreadnet.scoring.result import SeriesReport

DCIODVFY = shutil.which("dciodvfy")
OBLIQUE = [1, 0, 0, 0, 0.8, 0.6]
Scored = Callable[..., SeriesReport]


@pytest.fixture(scope="module")
def made(
    scored: Scored, session: Session, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SeriesReport, Path]:
    """Return the report and the outputs of two oblique slices with pixels that are not square."""
    folder = tmp_path_factory.mktemp("maps")
    tags: dict[str, Any] = {"ImageOrientationPatient": OBLIQUE, "PixelSpacing": [0.5, 0.8]}
    tags |= {"BodyPartExamined": "ABDOMEN", "PatientName": "Doe^Jane"}
    report = scored(write_series(folder / "series", 2, **tags))
    values = np.random.default_rng(0).uniform(0, 4, (2, 16, 16)).astype(np.float32)
    report = replace(report, outputs=replace(report.outputs, quality_map=values))
    sources = make_sources(report.refs)
    check_geometry(report.refs, sources)
    write_maps(report, sources, session.describe(), folder / "maps")
    write_maps(report, sources, session.describe(), folder / "fine", "slice")
    write_captures(report, sources, session.describe(), folder / "captures")
    return report, folder


def test_each_frame_is_the_map_of_its_slice_in_its_place(made: tuple[SeriesReport, Path]) -> None:
    report, folder = made
    ds = pydicom.dcmread(folder / "maps" / "map-1.dcm")
    frames = {}
    for frame, group in zip(ds.pixel_array, ds.PerFrameFunctionalGroupsSequence, strict=True):
        place = group.PlanePositionSequence[0].ImagePositionPatient
        frames[tuple(round(float(v), 3) for v in place)] = frame
    for ref, quality_map in zip(report.refs, report.outputs.quality_map, strict=True):
        corner = np.array(pydicom.dcmread(ref.path).ImagePositionPatient, float)
        x, y = np.array(OBLIQUE[:3]), np.array(OBLIQUE[3:])
        centre = corner + 15.5 * 0.8 * x + 15.5 * 0.5 * y
        np.testing.assert_array_equal(frames.pop(tuple(np.round(centre, 3))), quality_map)
    assert frames == {}
    measures = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(v) for v in measures.PixelSpacing] == [16, 25.6]
    assert ds.FrameOfReferenceUID == pydicom.dcmread(report.refs[0].path).FrameOfReferenceUID


def test_a_map_at_the_resolution_of_the_slice_repeats_each_score_in_its_patch(
    made: tuple[SeriesReport, Path],
) -> None:
    report, folder = made
    ds = pydicom.dcmread(folder / "fine" / "map-1.dcm")
    frames = {
        tuple(group.PlanePositionSequence[0].ImagePositionPatient): (frame, group)
        for frame, group in zip(ds.pixel_array, ds.PerFrameFunctionalGroupsSequence, strict=True)
    }
    assert len(frames) == 2 and (ds.Rows, ds.Columns) == (512, 512)
    assert 0 <= ds.pixel_array.min() and ds.pixel_array.max() <= 1  # the range that OHIF draws
    (mapping,) = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    slope = mapping.RealWorldValueSlope
    assert mapping.RealWorldValueIntercept == 0
    for ref, quality_map in zip(report.refs, report.outputs.quality_map, strict=True):
        header = pydicom.dcmread(ref.path)
        frame, group = frames[tuple(header.ImagePositionPatient)]
        for row, column in ((0, 0), (31, 32), (32, 31), (511, 0), (0, 511), (200, 333)):
            score = slope * frame[row, column]
            assert score == quality_map[row // 32, column // 32], (row, column)
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID == header.SOPInstanceUID
    shared = ds.SharedFunctionalGroupsSequence[0]
    assert [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing] == [0.5, 0.8]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == OBLIQUE


def test_the_map_says_what_it_is(made: tuple[SeriesReport, Path]) -> None:
    ds = pydicom.dcmread(made[1] / "maps" / "map-1.dcm")
    shared = ds.SharedFunctionalGroupsSequence[0]
    (mapping,) = shared.RealWorldValueMappingSequence
    (quantity,) = mapping.QuantityDefinitionSequence
    assert quantity.ConceptCodeSequence[0].CodeValue == QUALITY_MAP.value
    assert ds.ContentQualification == "RESEARCH" and "research use only" in ds.SeriesDescription
    assert str(ds.PatientName) == "Doe^Jane"


def test_captures_refer_to_their_slices_in_order(made: tuple[SeriesReport, Path]) -> None:
    report, folder = made
    captures = [pydicom.dcmread(path) for path in sorted((folder / "captures").iterdir())]
    references = [ds.SourceImageSequence[0].ReferencedSOPInstanceUID for ds in captures]
    assert references == [ref.instance_uid for ref in report.refs]
    assert captures[0].pixel_array.shape == (512, 512, 3)
    assert len({ds.SeriesInstanceUID for ds in captures} - {SERIES}) == 1
    assert all("research use only" in ds.SeriesDescription for ds in captures)


def test_research_use_is_burnt_in_and_the_map_is_seen() -> None:
    hu = np.full((512, 512), 40, np.float32)
    worst, best = np.zeros((16, 16), np.float32), np.full((16, 16), 4, np.float32)
    image = draw_overlay(hu, worst, "score 0.00")
    text = (image[:24, :220] == 255).all(axis=2)
    assert text.sum() > 300
    assert not (image[64:] == 255).all(axis=2).any()
    # Grey 127.5 under 40 % of viridis' ends.
    ends = np.array([[68, 1, 84], [253, 231, 37]])
    np.testing.assert_allclose(image[300, 300], 0.6 * 127.5 + 0.4 * ends[0], atol=1)
    image = draw_overlay(hu, best, "score 4.00")
    np.testing.assert_allclose(
        image[300, 300], 0.6 * 127.5 + 0.4 * np.array([253, 231, 37]), atol=1
    )


def test_the_map_stays_inside_the_body_and_the_bar_has_its_colours() -> None:
    hu = np.full((512, 512), -1000, np.float32)
    hu[128:420, 80:430] = np.linspace(-150, 230, 350, dtype=np.float32)  # across the window
    hu[200:280, 200:280] = -900  # gas inside the body
    quality_map = np.tile(np.linspace(0, 4, 16, dtype=np.float32), (16, 1))
    image = draw_overlay(hu, quality_map, "score 2.00").astype(int)
    coloured = np.ptp(image, axis=2) > 0
    coloured[:64] = False  # the lines and the bar
    np.testing.assert_array_equal(coloured, find_body(hu))
    assert (~coloured[64:] & (hu[64:] > -1000)).sum() < 0.01 * (hu > -1000).sum()
    bar = image[51:63, 48:304]
    drawn = np.unique(image[coloured], axis=0)
    distance = np.abs(drawn[:, None] - bar.reshape(-1, 3)).max(axis=2).min(axis=1)
    assert distance.max() <= 8  # the bar has 12 rows for 153 grey values: half of a step is 7


@pytest.mark.skipif(DCIODVFY is None, reason="no dciodvfy here (Debian's package `dicom3tools`)")
@pytest.mark.parametrize(
    "name", ["maps/map-1.dcm", "fine/map-1.dcm", "captures/capture-1-0001.dcm"]
)
def test_dciodvfy_finds_no_error(made: tuple[SeriesReport, Path], name: str) -> None:
    done = subprocess.run(
        [str(DCIODVFY), made[1] / name], capture_output=True, text=True, timeout=120
    )
    assert "ParametricMap" in done.stderr or "SCImage" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []


def test_frames_of_an_enhanced_ct(scored: Scored, session: Session, tmp_path: Path) -> None:
    report = scored(write_enhanced_ct(tmp_path / "e.dcm", 2))
    sources = make_sources(report.refs)
    check_geometry(report.refs, sources)
    write_maps(report, sources, session.describe(), tmp_path / "maps")
    ds = pydicom.dcmread(tmp_path / "maps" / "map-1.dcm")
    z = [
        float(group.PlanePositionSequence[0].ImagePositionPatient[2])
        for group in ds.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(z) == [-5, 0]


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"FrameOfReferenceUID": None}, "no FrameOfReferenceUID"),
        ({"PixelSpacing": None}, "no PixelSpacing"),
        ({"ImageOrientationPatient": None}, "no ImageOrientationPatient"),
        ({"ImageOrientationPatient": OBLIQUE}, "of the same series"),
    ],
    ids=["frame-of-reference", "spacing", "orientation", "another-orientation"],
)
def test_a_slice_without_a_place_is_refused(
    scored: Scored, tmp_path: Path, tags: dict[str, Any], words: str
) -> None:
    write_ct(tmp_path / "a.dcm")
    write_ct(tmp_path / "b.dcm", noise(1), ImagePositionPatient=[-180, -180, 5], **tags)
    refs = scored(tmp_path).refs
    with pytest.raises(InputError, match=words):
        check_geometry(refs, make_sources(refs))
