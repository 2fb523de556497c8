"""Unusual headers: scores are computed, objects are valid, and warnings of libraries are hidden."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pydicom
import pytest
from support.tiny_bundle import write_bundle
from typer.testing import CliRunner

from archives.headers import CASES, Header
from clinreadnet.cli import app

pytest.importorskip("highdicom", reason="highdicom is not installed: the extra dicom")

DCIODVFY = shutil.which("dciodvfy")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture(scope="session", params=CASES, ids=lambda case: case.name)
def made(
    request: pytest.FixtureRequest, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Header, Path, str, str]:
    """Return a case, the folder of its outputs, and the printed text."""
    case: Header = request.param
    folder = tmp_path_factory.mktemp(case.name)
    (folder / "in").mkdir()
    case.build(folder / "in")
    given = ["--bundle", str(bundle), "--backend", "onnxruntime-cpu", "--json"]
    for option in ("sr", "map", "secondary-capture"):
        given += [f"--{option}", str(folder / option)]
    levels = [logging.getLogger(name).level for name in ("pydicom", "highdicom")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = CliRunner().invoke(app, ["score", str(folder / "in"), *given])
    assert [str(warning.message) for warning in caught] == []
    assert levels == [logging.getLogger(name).level for name in ("pydicom", "highdicom")]
    error = done.exception
    line = "" if error is None or isinstance(error, SystemExit) else str(error)
    assert (getattr(error, "exit_code", 0)) == (1 if case.no_map else 0), repr(error)
    return case, folder, done.stdout, line


def test_scores_are_written_and_a_missing_map_is_noted_in_one_line(
    made: tuple[Header, Path, str, str],
) -> None:
    case, folder, printed, line = made
    frames = sum(
        int(pydicom.dcmread(path, stop_before_pixels=True).get("NumberOfFrames", 1))
        for path in (folder / "in").iterdir()
    )
    assert len(json.loads(printed)["slices"]) == frames
    assert case.no_map in line and bool(line) == bool(case.no_map)
    maps = sorted(path.name for path in folder.glob("map/*"))
    assert maps == list(case.maps)


def test_the_report_says_what_the_header_says(made: tuple[Header, Path, str, str]) -> None:
    case, folder, _, _ = made
    report = pydicom.dcmread(folder / "sr" / "sr-1.dcm")
    for name, value in case.report.items():
        assert (name in report) == (value is not None), name
        if value is not None:
            assert str(report.get(name)) == value, name
    for other in folder.glob("*/*-1*.dcm"):
        if other.parent.name != "in":
            assert pydicom.dcmread(other).get("PatientName") == report.get("PatientName")


@pytest.mark.skipif(DCIODVFY is None, reason="no dciodvfy here (Debian's package `dicom3tools`)")
def test_dciodvfy_finds_no_error(made: tuple[Header, Path, str, str]) -> None:
    for path in sorted(made[1].glob("*/*.dcm")):
        if path.parent.name != "in":
            done = subprocess.run([str(DCIODVFY), path], capture_output=True, timeout=120)
            errors = [line for line in done.stderr.splitlines() if line.startswith(b"Error")]
            assert errors == [], path


def test_the_map_of_a_phase_is_of_its_slices(made: tuple[Header, Path, str, str]) -> None:
    case, folder, _, _ = made
    if len(case.maps) < 2:
        return
    for number, name in enumerate(case.maps):
        ds = pydicom.dcmread(folder / "map" / name)
        wanted = {
            pydicom.dcmread(path).SOPInstanceUID for path in (folder / "in").glob(f"p{number}-*")
        }
        assert {item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence} == wanted
        assert ds.NumberOfFrames == len(wanted) and ds.InstanceNumber == number + 1


def test_frames_of_two_files_are_referenced_by_number(tmp_path: Path, bundle: Path) -> None:
    (case,) = [case for case in CASES if case.name == "two-multi-frame-files"]
    (tmp_path / "in").mkdir()
    case.build(tmp_path / "in")
    given = ["--bundle", str(bundle), "--map", str(tmp_path / "map")]
    assert CliRunner().invoke(app, ["score", str(tmp_path / "in"), *given]).exit_code == 0
    files = [pydicom.dcmread(path) for path in sorted((tmp_path / "in").iterdir())]
    at = {
        (source_ds.SOPInstanceUID, index + 1): float(
            group.PlanePositionSequence[0].ImagePositionPatient[2]
        )
        for source_ds in files
        for index, group in enumerate(source_ds.PerFrameFunctionalGroupsSequence)
    }
    ds = pydicom.dcmread(tmp_path / "map" / "map-1.dcm")
    positions = {}
    for group in ds.PerFrameFunctionalGroupsSequence:
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPClassUID == files[0].SOPClassUID
        z = float(group.PlanePositionSequence[0].ImagePositionPatient[2])
        positions[source.ReferencedSOPInstanceUID, source.ReferencedFrameNumber] = z
    assert positions == at
    assert len(ds.SourceImageSequence) == 2


@pytest.mark.parametrize("name", ["frames-of-one-position", "perfusion-at-one-position"])
def test_frames_that_share_a_position_have_none_of_their_own(
    tmp_path: Path, bundle: Path, name: str
) -> None:
    (case,) = [case for case in CASES if case.name == name]
    case.build(tmp_path)
    given = ["--bundle", str(bundle), "--json"]
    done = CliRunner().invoke(app, ["score", str(tmp_path), *given])
    assert [entry["position"] for entry in json.loads(done.stdout)["slices"]] == [None] * 3


@pytest.mark.parametrize("name", ["name-without-caret", "charset-written-wrong", "odd-patient"])
def test_nothing_of_a_header_reaches_standard_error(
    tmp_path: Path, bundle: Path, name: str
) -> None:
    (case,) = [case for case in CASES if case.name == name]
    (tmp_path / "in").mkdir()
    case.build(tmp_path / "in")
    command = [sys.executable, "-W", "always", "-m", "clinreadnet.cli", "score", tmp_path / "in"]
    for option in ("sr", "map", "secondary-capture"):
        command += [f"--{option}", tmp_path / option]
    done = subprocess.run(
        [*command, "--bundle", bundle], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_sources_are_public_reports() -> None:
    named = [case.source for case in CASES if case.source]
    assert all(source.count("/") == 1 and source.partition("#")[2].isdigit() for source in named)
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.skipif(
    "CLINREADNET_REAL_DATA" not in os.environ,
    reason="CLINREADNET_REAL_DATA does not name a folder of real slices",
)
@pytest.mark.parametrize("folder", ["liver-dome", "abdomen-ge", "head-ge"])
def test_real_series_get_legal_objects(tmp_path: Path, bundle: Path, folder: str) -> None:
    given = ["--bundle", str(bundle), "--sr", str(tmp_path / "sr"), "--map", str(tmp_path / "map")]
    series = Path(os.environ["CLINREADNET_REAL_DATA"]) / folder
    done = CliRunner().invoke(app, ["score", str(series), *given])
    assert done.exit_code == 0, done.exception
    source = pydicom.dcmread(next(path for path in sorted(series.rglob("*.dcm"))))
    for path in tmp_path.glob("*/*.dcm"):
        assert pydicom.dcmread(path).PatientID == source.PatientID
        if DCIODVFY is not None:
            checked = subprocess.run([DCIODVFY, path], capture_output=True, timeout=120)
            lines = checked.stderr.splitlines()
            assert [line for line in lines if line.startswith(b"Error")] == []
