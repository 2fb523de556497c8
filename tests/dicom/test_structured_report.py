"""Structured reports are read with highdicom and pydicom, and checked by dciodvfy."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.sr.coding import Code
from support.dicom_files import (
    bright,
    comment,
    make_ct,
    noise,
    write,
    write_ct,
    write_enhanced_ct,
    write_series,
)
from support.drawn_regions import abdomen, head
from support.header_reads import count_header_reads

from clinreadnet import cli
from clinreadnet.data.region import find_cells
from clinreadnet.data.slices import SliceRef, find_slices
from clinreadnet.dicom.codes import (
    DOMAIN,
    EXCEEDED,
    GRADES,
    HEAD_DOSE,
    IN_DOMAIN,
    KEPT,
    LIMIT_VALUES,
    LIMITS,
    NOVEL,
    NOVEL_SLICES,
    NOVELTY,
    PATCH,
    PRIVATE,
    REGION,
    REGIONS,
    SCHEME,
    SCORE,
    SLICES,
    UNCHECKED,
)
from clinreadnet.dicom.regions import worst_patch
from clinreadnet.dicom.sources import SOURCE_TAGS, make_sources
from clinreadnet.dicom.structured_report import write_reports
from clinreadnet.errors import InputError
from clinreadnet.runtime import Session
from clinreadnet.scoring.protocol_limits import read_protocol_limits
from clinreadnet.scoring.result import SeriesReport
from clinreadnet.scoring.run import score_slices
from clinreadnet.scoring.site_rules import SiteRules
from clinreadnet.spec import RESEARCH_USE

ROOT = Path(__file__).parents[2]
DCIODVFY = shutil.which("dciodvfy")
PATIENT = {
    "PatientName": "Doe^Jane",
    "PatientID": "P1",
    "PatientBirthDate": "19700101",
    "PatientSex": "F",
    "StudyID": "7",
    "AccessionNumber": "A1",
    "ReferringPhysicianName": "",
    "StudyDate": "20260131",
    "StudyTime": "101500",
}
DOSE: dict[str, Any] = {
    "CTDIvol": 4.5,
    "Exposure": 120,
    "KVP": "100",
    "ConvolutionKernel": "Br40",
    "SliceThickness": "2.5",
    "ManufacturerModelName": "Model 7",
    "ProtocolName": "Abdomen",
}
Scored = Callable[..., SeriesReport]
Run = Callable[..., tuple[int, str, str]]


def read(folder: Path, number: int = 1) -> Any:
    return highdicom.sr.srread(folder / f"sr-{number}.dcm")


def write_sr(report: SeriesReport, session: Session, out: Path) -> Path:
    write_reports(report, make_sources(report.refs), session.describe(), out)
    return out


@pytest.fixture(scope="module")
def made(
    scored: Scored, session: Session, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SeriesReport, Path]:
    """Return the report and the output of three slices and a bright one, which is novel."""
    folder = tmp_path_factory.mktemp("sr")
    series = write_series(folder / "series", 3, **PATIENT, **DOSE)
    write_ct(
        series / "bright.dcm", bright(9), ImagePositionPatient=[-180, -180, 50], **PATIENT, **DOSE
    )
    report = scored(series)
    assert [s.in_domain for s in report.slices] == [True, True, True, False]
    return report, write_sr(report, session, folder / "out")


def test_figures_are_measurements_with_units_and_standard_codes(
    session: Session, tmp_path: Path
) -> None:
    phantom = pydicom.Dataset()
    phantom.CodeValue, phantom.CodingSchemeDesignator = "113691", "DCM"
    phantom.CodeMeaning = "IEC Body Dosimetry Phantom"
    hu = np.rint(abdomen() + np.random.default_rng(0).normal(0, 12, (512, 512))).astype(np.int16)
    tags = {**PATIENT, **DOSE, "CTDIPhantomTypeCodeSequence": [phantom]}
    (series := tmp_path / "series").mkdir()
    write_ct(series / "a.dcm", hu, **tags)
    write_ct(series / "b.dcm", hu, **(tags | {"PixelSpacing": None}))
    refs = find_slices([series], keep=SOURCE_TAGS)
    report = score_slices(session, refs, figures=True)
    out = write_sr(report, session, tmp_path / "out")
    first, second = read(out).content.get_image_measurement_groups()[:2]
    measurements = {m.name.value: (m.value, m.unit.value) for m in first.get_measurements()}
    figures = report.slices[0].figures
    assert figures is not None and figures.ssde_mgy is not None
    hounsfield = "[hnsf'U]"
    expected = {
        "NOISE": (figures.noise_hu, hounsfield),
        "113980": (figures.water_diameter_cm, "cm"),
        "113930": (figures.ssde_mgy, "mGy"),
        "CUT": (figures.cut, "{0:1}"),
        "AIR": (figures.air_hu, hounsfield),
        "FAT": (figures.fat_hu, hounsfield),
        "STREAKS": (figures.streak_hu, hounsfield),
        "VIEWS": (0, "{views}"),
        "VIEWSHARE": (0, "{0:1}"),
    }
    for name, (value, unit) in expected.items():
        assert measurements[name] == (pytest.approx(value, rel=1e-5), unit), name
    methods = {m.name.value: m.method for m in first.get_measurements() if m.method}
    assert {name: code.value for name, code in methods.items()} == {
        "113980": "113987",
        "113930": "113988",
    }
    left = {m.name.value for m in second.get_measurements()}
    assert left & expected.keys() == {"NOISE", "CUT", "AIR"}
    text = comment(pydicom.dcmread(out / "sr-1.dcm"))
    assert "1 of 2 slices: no Dw (the size of a pixel is not known)." in text


def test_the_dose_of_a_head_states_its_conversion(session: Session, tmp_path: Path) -> None:
    phantom = pydicom.Dataset()
    phantom.CodeValue, phantom.CodingSchemeDesignator = "113690", "DCM"
    phantom.CodeMeaning = "IEC Head Dosimetry Phantom"
    hu = np.rint(head() + np.random.default_rng(0).normal(0, 5, (512, 512))).astype(np.int16)
    tags = {**PATIENT, **DOSE, "CTDIPhantomTypeCodeSequence": [phantom]}
    (series := tmp_path / "series").mkdir()
    tags |= {"PixelSpacing": [0.5, 0.5], "ProtocolName": "Brain"}
    write_ct(series / "a.dcm", hu, **tags)
    report = score_slices(session, find_slices([series], keep=SOURCE_TAGS), figures=True)
    out = write_sr(report, session, tmp_path / "out")
    group = read(out).content.get_image_measurement_groups()[0]
    methods = {m.name.value: m.method for m in group.get_measurements() if m.method}
    assert methods["113930"] == HEAD_DOSE
    text = comment(pydicom.dcmread(out / "sr-1.dcm"))
    assert "SSDE by AAPM 293, head, 16 cm phantom (1 of 1)." in text


@pytest.mark.parametrize(
    ("limits", "answer", "values"),
    [
        ("[default]\nleast_score = 0.5", KEPT, {}),
        ("[default]\nmost_ssde_mgy = 5", UNCHECKED, {}),
        (
            "[protocol.Abdomen]\nmost_noise_hu = 5\nmost_ssde_mgy = 5\nleast_score = 4",
            EXCEEDED,
            {"LEASTSCORE": (4.0, "{0:4}"), "MOSTNOISE": (5.0, "[hnsf'U]")},
        ),
    ],
)
def test_the_limits_of_the_site_are_judged_in_the_last_group(
    session: Session, tmp_path: Path, limits: str, answer: Code, values: dict[str, Any]
) -> None:
    hu = np.rint(abdomen() + np.random.default_rng(0).normal(0, 12, (512, 512))).astype(np.int16)
    (series := tmp_path / "series").mkdir()
    write_ct(series / "a.dcm", hu, **PATIENT, **DOSE)  # without a phantom, so without SSDE
    (tmp_path / "limits.toml").write_text(limits)
    rules = SiteRules(limits=read_protocol_limits(tmp_path / "limits.toml"))
    refs = find_slices([series], keep=SOURCE_TAGS)
    report = score_slices(session, refs, figures=True, rules=rules)
    out = write_sr(report, session, tmp_path / "out")
    group = read(out).content.get_image_measurement_groups()[-1]
    (judged,) = group.get_qualitative_evaluations(name=LIMITS)
    assert judged.value == answer
    measurements = {m.name.value: (m.value, m.unit.value) for m in group.get_measurements()}
    assert {k: v for k, v in measurements.items() if k[:4] in ("LEAS", "MOST")} == values
    places = [name.value for name, _ in coordinates(group) if name in LIMIT_VALUES.values()]
    assert places == list(values)  # the only slice exceeds each limit itself
    noise = report.slices[0].figures.noise_hu  # type: ignore[union-attr]
    assert measurements.get("NOISE") == (
        (pytest.approx(noise, rel=1e-5), "[hnsf'U]") if answer == EXCEEDED else None
    )
    text = comment(pydicom.dcmread(out / "sr-1.dcm"))
    assert ("Limit exceeded: mean noise" in text) == (answer == EXCEEDED)
    assert ("Limit not checked: mean SSDE is not known." in text) == (answer != KEPT)
    if DCIODVFY is not None:
        done = subprocess.run(
            [DCIODVFY, out / "sr-1.dcm"], capture_output=True, text=True, timeout=120
        )
        assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []


def test_each_slice_is_a_group_with_its_score_and_its_image(
    made: tuple[SeriesReport, Path],
) -> None:
    report, out = made
    groups = read(out).content.get_image_measurement_groups()
    assert len(groups) == len(report.slices) + 1
    for s, ref, group in zip(report.slices, report.refs, groups, strict=False):
        measurements = {m.name: m.value for m in group.get_measurements()}
        assert measurements[SCORE] == pytest.approx(s.score, rel=1e-5)
        assert measurements[NOVELTY] == pytest.approx(s.novelty, rel=1e-5)
        assert [measurements[grade] for grade in GRADES] == pytest.approx(
            [3 / 21, 5 / 21, 5 / 21, 5 / 21, 3 / 21], rel=1e-5
        )
        (judged,) = group.get_qualitative_evaluations(name=DOMAIN)
        assert judged.value == (IN_DOMAIN if s.in_domain else NOVEL)
        (region,) = group.get_qualitative_evaluations(name=REGION)
        assert region.value == REGIONS[s.region]
        (image,) = group.source_images
        assert image.referenced_sop_instance_uid == ref.instance_uid


def test_the_last_group_summarises_the_series(made: tuple[SeriesReport, Path]) -> None:
    report, out = made
    group = read(out).content.get_image_measurement_groups()[-1]
    counts = {m.name: m.value for m in group.get_measurements() if m.name != SCORE}
    assert counts == {SLICES: 4, NOVEL_SLICES: 1}
    scores = [(m.derivation.meaning, m.value) for m in group.get_measurements(name=SCORE)]
    summary = report.series
    assert scores == [
        ("Mean", pytest.approx(summary.mean, rel=1e-5)),
        ("Minimum", pytest.approx(summary.min, rel=1e-5)),
        ("Maximum", pytest.approx(summary.max, rel=1e-5)),
    ]


def coordinates(group: Any) -> list[tuple[Code, Any]]:
    """Return the places in images that the measurements of a group refer to, with their names."""
    return [(m.name, place) for m in group.get_measurements() for place in m.referenced_coordinates]


def image_of(place: Any) -> str:
    return str(place.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


def test_a_slice_has_a_point_for_its_score_and_the_border_of_its_worst_patch(
    made: tuple[SeriesReport, Path],
) -> None:
    report, out = made
    groups = read(out).content.get_image_measurement_groups()
    for ref, quality_map, group in zip(
        report.refs, report.outputs.quality_map, groups, strict=False
    ):
        (score, point), (patch, border) = coordinates(group)
        assert (score, patch) == (SCORE, PATCH)
        assert image_of(point) == image_of(border) == ref.instance_uid
        np.testing.assert_array_equal(point.value, [[16, 16]])
        left, top = border.value[0]
        np.testing.assert_array_equal(
            border.value - [left, top], [[0, 0], [32, 0], [32, 32], [0, 32], [0, 0]]
        )
        (lowest,) = group.get_measurements(name=PATCH)
        assert lowest.value == pytest.approx(quality_map[int(top) // 32, int(left) // 32], rel=1e-5)
        assert top >= 32  # the first rows are air


def test_the_summary_refers_to_the_slices_that_it_counts(made: tuple[SeriesReport, Path]) -> None:
    report, out = made
    group = read(out).content.get_image_measurement_groups()[-1]
    scores = [s.score for s in report.slices[:3]]  # the last is novel
    uids = [ref.instance_uid for ref in report.refs]
    assert [(name, image_of(place)) for name, place in coordinates(group)] == [
        (NOVEL_SLICES, uids[3]),
        (SCORE, uids[scores.index(min(scores))]),
        (SCORE, uids[2 - scores[::-1].index(max(scores))]),
    ]


def test_numbers_have_units_that_are_not_read_as_numbers(made: tuple[SeriesReport, Path]) -> None:
    for group in read(made[1]).content.get_image_measurement_groups():
        for measurement in group.get_measurements():
            assert measurement.unit.value not in ("", "1"), measurement.name


def test_each_group_says_research_use_and_which_score_not_to_use(
    made: tuple[SeriesReport, Path],
) -> None:
    groups = read(made[1]).content.get_image_measurement_groups()
    comments = [comment(group[0]) for group in groups[:-1]]
    assert comments == [RESEARCH_USE] * 3 + [f"{NOVEL.meaning}. {RESEARCH_USE}"]


def patches(ref: SliceRef) -> NDArray[np.bool_]:
    return find_cells(ref.load()).patches


def test_no_pixels_are_read_again(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = find_slices([write_series(tmp_path / "series", 2, **PATIENT)], keep=SOURCE_TAGS)
    report = score_slices(session, refs, figures=True)
    monkeypatch.setattr(SliceRef, "load", lambda ref: pytest.fail(f"read {ref.name} again"))
    out = write_sr(report, session, tmp_path / "out")
    groups = read(out).content.get_image_measurement_groups()[:-1]
    assert all("PATCH" in {m.name.value for m in g.get_measurements()} for g in groups)


@pytest.mark.parametrize(
    ("shape", "box", "patch", "border"),
    [
        ((512, 512), (100, 300, 64, 400), (5, 4), (128, 160, 32)),
        ((512, 512), (100, 300, 64, 400), (2, 2), None),  # rows 64 to 96 are air
        ((1024, 1024), (100, 600, 64, 800), (5, 4), (256, 320, 64)),
        ((300, 400), (60, 240, 60, 340), (7, 5), (125, 125, 25)),  # padded by 50 rows
        ((400, 300), (60, 340, 60, 240), (7, 5), (75, 175, 25)),
    ],
    ids=["in the body", "in the air", "larger", "wide", "high"],
)
def test_the_worst_patch_is_in_the_body_and_in_pixels_of_the_file(
    tmp_path: Path,
    shape: tuple[int, int],
    box: tuple[int, int, int, int],
    patch: tuple[int, int],
    border: tuple[int, int, int] | None,
) -> None:
    top, bottom, left, right = box
    hu = np.full(shape, -1000, np.int16)
    hu[top:bottom, left:right] = noise(0, (bottom - top, right - left)).clip(-200, 200)
    (ref,) = find_slices([write_ct(tmp_path / "a.dcm", hu)], resample=True, keep=SOURCE_TAGS)
    quality_map = np.full((16, 16), 3, np.float32)
    quality_map[patch] = 1
    (source,) = make_sources([ref]).values()
    worst = worst_patch(ref, source, quality_map, patches(ref))
    assert worst is not None
    assert worst[0] == (1 if border else 3)
    if border is not None:
        x, y, side = border
        corners = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
        np.testing.assert_allclose(worst[1].value, corners, atol=1e-3)


def test_a_slice_without_a_body_has_no_worst_patch(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).normal(-1000, 9, (512, 512)).astype(np.int16)
    hu[200:212] += 1040  # less than half of a row of patches
    (ref,) = find_slices([write_ct(tmp_path / "a.dcm", hu)], keep=SOURCE_TAGS)
    (source,) = make_sources([ref]).values()
    assert worst_patch(ref, source, np.zeros((16, 16), np.float32), patches(ref)) is None


def test_the_algorithm_and_the_device_are_identified(
    made: tuple[SeriesReport, Path], session: Session
) -> None:
    report = read(made[1])
    group = report.content.get_image_measurement_groups()[0]
    texts: dict[str, list[str]] = {}
    for item in group[0].ContentSequence:
        if item.ValueType == "TEXT":
            texts.setdefault(item.name.value, []).append(item.value)
    facts = session.describe()
    name, version, parameters = (texts[code] for code in ("111001", "111003", "111002"))
    assert (name, version) == (["ClinReadNet"], [facts["clinreadnet_version"]])
    for expected in (
        f"weights SHA-256: {facts['weights_sha256']}",
        f"artifact: {facts['artifact']}",
        "backend: onnxruntime-cpu",
        f"verdict: {facts['verdict']}",
    ):
        assert any(line.startswith(expected) for line in parameters), expected
    observers = [i.value for i in report.content[0].ContentSequence if i.name.value == "121013"]
    assert observers == ["ClinReadNet"]


def test_dose_and_protocol_are_the_acquisition_context(made: tuple[SeriesReport, Path]) -> None:
    group = read(made[1]).content.get_image_measurement_groups()[0]
    context: dict[str, Any] = {}
    for item in group[0].ContentSequence:
        if item.RelationshipType == "HAS ACQ CONTEXT":
            context[item.name.meaning] = getattr(item, "value", None)
    assert context == {
        "Mean CTDIvol": 4.5,
        "Exposure": 120,
        "Source of the exposure": "header, not checked",
        "KVP": 100,
        "Slice Thickness": 2.5,
        "Convolution kernel": "Br40",
        "Device Model Name": "Model 7",
        "Acquisition Protocol": "Abdomen",
    }


def test_the_header_is_the_studys_and_says_research_use(made: tuple[SeriesReport, Path]) -> None:
    ds = pydicom.dcmread(made[1] / "sr-1.dcm")
    for name, value in PATIENT.items():
        assert str(ds.get(name)) == value, name
    assert (ds.Modality, ds.CompletionFlag, ds.VerificationFlag) == ("SR", "COMPLETE", "UNVERIFIED")
    assert "research use only" in ds.SeriesDescription
    assert comment(ds) == RESEARCH_USE
    assert ds.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == SCHEME
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert len(series.ReferencedSOPSequence) == 4


@pytest.mark.skipif(DCIODVFY is None, reason="no dciodvfy here (Debian's package `dicom3tools`)")
def test_dciodvfy_finds_no_error(made: tuple[SeriesReport, Path]) -> None:
    done = subprocess.run(
        [str(DCIODVFY), made[1] / "sr-1.dcm"], capture_output=True, text=True, timeout=120
    )
    assert "Comprehensive3DSR" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []


def test_frames_of_an_enhanced_ct_are_referenced_by_number(
    scored: Scored, session: Session, tmp_path: Path
) -> None:
    report = scored(write_enhanced_ct(tmp_path / "e.dcm", 2))
    out = write_sr(report, session, tmp_path / "out")
    groups = read(out).content.get_image_measurement_groups()
    frames = [group.source_images[0].referenced_frame_numbers for group in groups[:-1]]
    assert frames == [[2], [1]]  # in the order of their positions
    for group, numbers in zip(groups, frames, strict=False):
        for _, place in coordinates(group):
            (reference,) = place.ContentSequence[0].ReferencedSOPSequence
            assert reference.ReferencedFrameNumber == numbers[0]


def test_two_series_get_a_report_each(scored: Scored, session: Session, tmp_path: Path) -> None:
    write_series(tmp_path / "a", 1)
    write_series(tmp_path / "b", 2, SeriesInstanceUID="1.2.9")
    out = write_sr(scored(tmp_path / "a", tmp_path / "b"), session, tmp_path / "out")
    first, second = (pydicom.dcmread(out / f"sr-{n}.dcm") for n in (1, 2))
    assert sorted(path.name for path in out.iterdir()) == ["sr-1.dcm", "sr-2.dcm"]
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert first.SeriesNumber != second.SeriesNumber


def test_a_name_in_another_character_set_survives(
    scored: Scored, session: Session, tmp_path: Path
) -> None:
    name = "Yamada^Tarou=山田^太郎"
    path = write_ct(tmp_path / "a.dcm", SpecificCharacterSet="ISO_IR 192", PatientName=name)
    out = write_sr(scored(path), session, tmp_path / "out")
    assert str(pydicom.dcmread(out / "sr-1.dcm").PatientName) == name


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"StudyInstanceUID": None}, "no StudyInstanceUID"),
        ({"SeriesInstanceUID": ""}, "no SeriesInstanceUID"),
        ({"StudyInstanceUID": "1.2.x"}, "an invalid StudyInstanceUID"),
    ],
    ids=["study", "series", "invalid"],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_slice_without_uids_is_refused(
    tmp_path: Path, scored: Scored, tags: dict[str, Any], words: str
) -> None:
    report = scored(write_ct(tmp_path / "a.dcm", **tags))
    with pytest.raises(InputError, match=words) as caught:
        make_sources(report.refs)
    assert str(tmp_path / "a.dcm") in str(caught.value)


def test_two_slices_with_one_uid_and_other_pixels_are_refused(
    tmp_path: Path, scored: Scored
) -> None:
    for name, seed in (("a.dcm", 0), ("b.dcm", 1)):
        write(tmp_path / name, make_ct(noise(seed), SOPInstanceUID="1.2.3.4"))
    with pytest.raises(InputError, match="a reference to it is ambiguous"):
        make_sources(scored(tmp_path).refs)


def test_a_series_of_two_patients_is_refused(tmp_path: Path, scored: Scored) -> None:
    write_ct(tmp_path / "a.dcm", PatientID="1")
    write_ct(tmp_path / "b.dcm", PatientID="2")
    with pytest.raises(InputError, match="of another study or patient"):
        make_sources(scored(tmp_path).refs)


def test_a_slice_that_is_not_dicom_is_refused(tmp_path: Path, scored: Scored) -> None:
    np.save(tmp_path / "a.npy", noise())
    with pytest.raises(InputError, match="not a DICOM file"):
        make_sources(scored(tmp_path / "a.npy").refs)


def test_private_codes_are_distinct_short_and_documented() -> None:
    page = (ROOT / "docs" / "dicom-codes.md").read_text()
    assert len({code.value for code in PRIVATE}) == len(PRIVATE)
    for code in PRIVATE:
        assert code.scheme_designator == SCHEME
        assert len(code.value) <= 16 and len(code.meaning) <= 64
        assert f"| `{code.value}` | {code.meaning} |" in page
    assert len(re.findall(r"^\| `[A-Z0-9]+` \|", page, re.M)) == len(PRIVATE)
    assert Code("111029", "DCM", "Image Quality Rating") not in PRIVATE


def test_a_report_of_novel_slices_alone_has_no_mean(
    made: tuple[SeriesReport, Path], session: Session, tmp_path: Path
) -> None:
    report = made[0]
    last = SeriesReport(report.slices[3:], report.refs[3:], report.outputs.take(3))
    write_reports(last, make_sources(last.refs), session.describe(), tmp_path / "out")
    group = read(tmp_path / "out").content.get_image_measurement_groups()[-1]
    assert [m.name for m in group.get_measurements()] == [SLICES, NOVEL_SLICES]
    ((name, place),) = coordinates(group)
    assert (name, image_of(place)) == (NOVEL_SLICES, last.refs[0].instance_uid)


@pytest.fixture
def run(bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `clinreadnet score` in this process; return its status and what it printed."""

    def command(*arguments: object) -> tuple[int, str, str]:
        words = ["clinreadnet", "score", *arguments, "--bundle", bundle]
        monkeypatch.setattr("sys.argv", list(map(str, words)))
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    return command


def test_the_command_refuses_a_folder_that_is_there(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "reports"
    out.mkdir()
    status, printed, errors = run(write_series(tmp_path / "series", 1), "--sr", out)
    assert (status, printed) == (2, "")
    assert "reports: already exists" in errors and errors.count("\n") == 1


def test_the_command_writes_maps_at_the_resolution_of_the_slice(run: Run, tmp_path: Path) -> None:
    series = write_series(tmp_path / "series", 1)
    options = ["--map", tmp_path / "maps", "--map-resolution"]
    status, printed, errors = run(series, *options, "fine")
    assert (status, printed) == (2, "") and "--map-resolution 'fine': give patch or slice" in errors
    assert run(series, *options, "slice")[0] == 0
    assert pydicom.dcmread(tmp_path / "maps" / "map-1.dcm").Rows == 512


def test_each_header_is_read_once_on_its_way_from_a_folder_to_the_objects(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = write_series(tmp_path / "series", 3)
    outputs = [
        *("--sr", tmp_path / "reports"),
        *("--map", tmp_path / "maps"),
        *("--secondary-capture", tmp_path / "captures"),
    ]
    reads = count_header_reads(monkeypatch)
    assert run(series, *outputs)[0] == 0
    assert reads == {"header": 3}
    assert len(list(tmp_path.glob("*/*-1*.dcm"))) == 5


@pytest.mark.parametrize("option", ["--sr", "--map", "--secondary-capture"])
def test_an_object_of_a_file_that_is_not_dicom_is_refused_before_scoring(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def load(*arguments: object, **options: object) -> None:
        raise AssertionError("the bundle is loaded")

    monkeypatch.setattr("clinreadnet.cli.score.open_session", load)
    np.save(tmp_path / "a.npy", noise())
    series = write_series(tmp_path / "series", 1)
    status, printed, errors = run(series, tmp_path / "a.npy", option, tmp_path / "out")
    assert (status, printed) == (2, "") and not (tmp_path / "out").exists()
    assert "a.npy: not a DICOM file" in errors and errors.count("\n") == 1


def test_a_series_without_a_study_gets_scores_and_a_line_instead_of_a_report(
    run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "reports"
    series = write_series(tmp_path / "series", 1, StudyInstanceUID=None)
    status, printed, errors = run(series, "--sr", out)
    assert status == 1 and "1 slice: mean" in printed and not out.exists()
    assert "no StudyInstanceUID" in errors and errors.count("\n") == 1
    assert list(tmp_path.rglob("*.dcm")) == list(series.iterdir())
