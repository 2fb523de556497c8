"""Slices without a body: skipped at the ends of a series in a folder, an error anywhere else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from support.dicom_files import comment, noise, write_ct
from support.tiny_bundle import write_bundle

from clinreadnet.data.slices import NoBody, find_slices
from clinreadnet.dicom.sources import SOURCE_TAGS, make_sources
from clinreadnet.dicom.structured_report import write_reports
from clinreadnet.errors import InputError
from clinreadnet.runtime import Session
from clinreadnet.scoring.result import SeriesReport
from clinreadnet.scoring.run import score_slices


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Session(write_bundle(tmp_path_factory.mktemp("b") / "bundle"), batch=2) as session:
        yield session


def air(seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).normal(-1000, 15, (512, 512)).astype(np.int16)


def clipped_air() -> NDArray[np.int16]:
    return np.maximum(air(), -1000)


def blank_air() -> NDArray[np.int16]:
    return np.full((512, 512), -1024, np.int16)


def holder() -> NDArray[np.int16]:
    """Return a slice of the shell of a head holder."""
    image = air()
    image[100:400, 200:203] = image[100:400, 300:303] = -200
    return image


EMPTY = {"air": air, "clipped-air": clipped_air, "blank-air": blank_air, "head-holder": holder}


def write_folder(folder: Path, images: Iterable[NDArray[np.int16]], **tags: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        place = [-180, -180, 2.5 * i]
        name = f"{tags.get('SeriesInstanceUID', '')}-{i}.dcm"
        write_ct(folder / name, image, ImagePositionPatient=place, InstanceNumber=i, **tags)
    return folder


def score(session: Session, *paths: Path, **options: Any) -> tuple[SeriesReport, list[str]]:
    notes: list[str] = []
    report = score_slices(session, find_slices(paths), note=notes.append, **options)
    return report, notes


@pytest.mark.parametrize("empty", EMPTY.values(), ids=EMPTY.keys())
def test_a_slice_without_a_body_at_an_end_is_skipped_with_a_note(
    tmp_path: Path, session: Session, empty: Any
) -> None:
    for images in ([noise(), noise(1), empty()], [empty(), noise(), noise(1)]):
        folder = write_folder(tmp_path / "s", images)
        report, notes = score(session, folder)
        assert report.series.n == 2
        (note,) = notes
        assert "without a body at the ends of a series" in note and ".dcm)" in note


def test_several_are_one_note_and_each_series_has_its_own_ends(
    tmp_path: Path, session: Session
) -> None:
    write_folder(tmp_path / "s", [air(1), noise(), air(2), air(3)], SeriesInstanceUID="1.2.1")
    write_folder(tmp_path / "s", [air(4), noise(), noise(1)], SeriesInstanceUID="1.2.2")
    report, notes = score(session, tmp_path / "s")
    assert [series.n for series in report.by_series.values()] == [1, 2]
    (note,) = notes
    assert note.endswith("and 3 more)")


def test_the_report_says_how_many_slices_have_no_body(tmp_path: Path, session: Session) -> None:
    folder = write_folder(tmp_path / "s", [air(1), noise(), holder()], SeriesInstanceUID="1.2.1")
    write_folder(folder, [noise(), noise(1)], SeriesInstanceUID="1.2.2")
    report = score_slices(session, find_slices([folder], keep=SOURCE_TAGS))
    assert [ref.path.name for ref in report.skipped] == ["1.2.1-0.dcm", "1.2.1-2.dcm"]
    sources = make_sources(report.refs)
    written = write_reports(report, sources, session.describe(), tmp_path / "sr")
    comments = [comment(pydicom.dcmread(item.path)) for item in written]
    assert comments[0].endswith("Left out at the ends of the series: 2 slices without a body.")
    assert "without a body" not in comments[1]


def test_between_other_slices_it_is_an_error(tmp_path: Path, session: Session) -> None:
    folder = write_folder(tmp_path / "s", [noise(), noise(1), air(), noise(2), air(1)])
    with pytest.raises(NoBody, match=r"-2\.dcm: not a CT slice in HU"):
        score(session, folder)
    left_out: list[str] = []
    report, notes = score(
        session, folder, left_out=lambda ref, error: left_out.append(ref.path.name)
    )
    assert left_out == ["-2.dcm"] and report.series.n == 3
    assert len(notes) == 1 and "-4.dcm" in notes[0]


def test_a_named_file_is_an_error(tmp_path: Path, session: Session) -> None:
    folder = write_folder(tmp_path / "s", [noise(), air()])
    with pytest.raises(NoBody):
        score(session, *sorted(folder.iterdir()))


def test_a_folder_without_any_body_is_an_error(tmp_path: Path, session: Session) -> None:
    folder = write_folder(tmp_path / "s", [air(), air(1)])
    with pytest.raises(InputError, match="none of 2 slices can be read"):
        score(session, folder)


@pytest.mark.parametrize("value", [0, 40, 2000], ids=["zeros", "tissue", "lost-sign"])
def test_a_blank_slice_of_another_value_is_damaged(
    tmp_path: Path, session: Session, value: int
) -> None:
    folder = write_folder(tmp_path / "s", [noise(), np.full((512, 512), value, np.int16)])
    with pytest.raises(InputError, match="blank") as refusal:
        score(session, folder)
    assert not isinstance(refusal.value, NoBody)
