"""The figures of slices in every output of `clinreadnet score`."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from rich.console import Console
from support.dicom_files import write_ct
from support.drawn_regions import abdomen
from support.metaimage_files import write_mha
from support.tiny_bundle import write_bundle

from clinreadnet.data.slices import SliceRef, find_slices
from clinreadnet.physics import SliceFigures, measure_figures, with_dose
from clinreadnet.physics.table import FIGURES, describe, figure_lines, missing
from clinreadnet.runtime import Scores, Session
from clinreadnet.scoring.result import SeriesReport
from clinreadnet.scoring.run import score_chunk, score_slices
from clinreadnet.scoring.table import print_report
from clinreadnet.scoring.viewer import write_html
from clinreadnet.scoring.write import write_csv


def body_phantom() -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = "113691", "DCM"
    item.CodeMeaning = "IEC Body Dosimetry Phantom"
    return item


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two slices with a dose, and one without pixel size and dose."""
    folder = tmp_path_factory.mktemp("series")
    dose = {"CTDIvol": 9.0, "CTDIPhantomTypeCodeSequence": [body_phantom()], "SliceThickness": 5}
    for index in range(3):
        rng = np.random.default_rng(index)
        hu = np.rint(abdomen() + rng.normal(0, 12, (512, 512))).astype(np.int16)
        tags: dict[str, Any] = dose if index < 2 else {"PixelSpacing": None}
        place = [0, 0, 5.0 * index]
        write_ct(folder / f"{index}.dcm", hu, ImagePositionPatient=place, **tags)
    return folder


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(write_bundle(tmp_path_factory.mktemp("bundles") / "b"), "onnxruntime-cpu")


@pytest.fixture(scope="module")
def report(session: Session, folder: Path) -> SeriesReport:
    return score_slices(session, find_slices([folder]), figures=True)


def test_they_are_measured_on_request(session: Session, folder: Path, report: SeriesReport) -> None:
    refs = find_slices([folder])
    expected = [with_dose(measure_figures(r.load(), r.loaded_mm), r.acquisition) for r in refs]
    assert [s.figures for s in report.slices] == expected
    assert [s.figures for s in score_chunk(session, refs, figures=True)] == expected  # type: ignore[union-attr]
    without = score_slices(session, refs)
    assert all(s.figures is None and s.remark == "" for s in without.slices)
    assert without.outputs.figures is None
    _, scores = session.score_files(folder, figures=True)
    assert scores.figures is not None and scores.take(1).figures == scores.figures[1:2]


def real_slices() -> list[Path]:
    """Return the folders of real slices, if there are any on this machine."""
    place = os.environ.get("CLINREADNET_REAL_DATA")
    names = ("abdomen-ge", "liver-dome", "tcga", "head-ge", "chest-lidc", "enhanced-ct")
    return [] if place is None else [Path(place) / name for name in names]


def test_int16_slices_score_like_float32_to_the_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hu = np.stack([ref.load_compact() for ref in find_slices([folder])])
    assert hu.dtype == np.int16
    np.save(tmp_path / "stack.npy", hu)
    write_mha(tmp_path / "stack.mha", hu)
    refs = find_slices([folder, tmp_path, *real_slices()])
    batches: list[np.ndarray] = []
    with Session() as shipped:
        score = shipped.score

        def watched(images: np.ndarray, *sizes: Any, **options: Any) -> Scores:
            batches.append(images)
            return score(images, *sizes, **options)

        monkeypatch.setattr(shipped, "score", watched)
        short = score_slices(shipped, refs, figures=True)
        held = sum(images.nbytes for images in batches)
        load = SliceRef.load_compact
        monkeypatch.setattr(SliceRef, "load_compact", lambda ref: load(ref).astype(np.float32))
        batches.clear()
        wide = score_slices(shipped, refs, figures=True)
    assert held <= 0.6 * sum(images.nbytes for images in batches)
    assert repr(short.slices) == repr(wide.slices)
    for name in ("score", "probs", "quality_map", "novelty"):
        ours, expected = getattr(short.outputs, name), getattr(wide.outputs, name)
        assert ours.dtype == np.float32 and ours.tobytes() == expected.tobytes(), name


def test_json_and_csv_hold_them(session: Session, report: SeriesReport, tmp_path: Path) -> None:
    slices = json.loads(json.dumps(report.to_dict(session)))["slices"]
    assert [s["figures"]["noise_hu"] for s in slices] == pytest.approx([12] * 3, rel=0.05)
    assert slices[0]["figures"]["ssde_mgy"] > 0 and slices[2]["figures"]["ssde_mgy"] is None
    assert slices[2]["figures"]["missing"].endswith("ssde_mgy: no water-equivalent diameter")
    write_csv(report, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, s in zip(rows, report.slices, strict=True):
        for name, value in vars(s.figures).items():
            if isinstance(value, float):
                assert float(row[name]) == pytest.approx(value, rel=1e-4, abs=1e-9)
            else:
                assert row[name] == (value or "")
        assert row["remark"] == s.remark


@pytest.mark.parametrize("width", [40, 80, 140])
def test_the_table_fits_and_says_what_is_missing(
    session: Session, report: SeriesReport, width: int
) -> None:
    written = io.StringIO()
    print_report(report, Console(width=width, file=written), session.describe())
    text = written.getvalue()
    rows = [line for line in text.splitlines() if line[:1] in "┏┃┡│└"]
    assert len(rows) > 5 and max(map(len, rows)) <= width
    heading = next(line for line in rows if line.startswith("┃"))
    shown = [figure.heading for figure in FIGURES if figure.title in heading]
    assert shown[:1] == ["noise"] and ("Dw" in shown) == (width > 40)
    assert (len(shown) == len(FIGURES)) == (width == 140)
    assert "2 of 3 slices" not in text
    assert "SSDE by AAPM 204, 32 cm phantom (2 of 3)." in " ".join(text.split())
    assert "1 of 3 slices: no Dw (the size of a pixel is not known)." in text
    assert "1 of 3 slices: no SSDE (no water-equivalent diameter)." in text
    assert "SSDE: AAPM 204" in text


def test_the_page_shows_them(report: SeriesReport, tmp_path: Path) -> None:
    write_html(report, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert describe(report.slices[0].figures) in text
    assert describe(report.slices[0].figures).startswith("noise 1")
    assert "no fat (the size of a pixel is not known)" in text
    assert "Dw: AAPM 220" in text


def test_lines_count_remarks_cuts_and_gaps() -> None:
    cut = SliceFigures(cut=0.05, missing="fat_hu: no subcutaneous fat")
    assert missing(cut) == ["no fat (no subcutaneous fat)"] and missing(None) == []
    denoised = "looks denoised: noise of 2.0 HU, where 6.1 is expected for its size and dose"
    slices = [(cut, f"{denoised}; low score for its noise of 2.0 HU"), (cut, denoised), (None, "")]
    assert figure_lines(slices) == [
        "2 of 2 slices: looks denoised.",
        "1 of 2 slices: low score for its noise.",
        "2 of 2 slices: the field cuts the body; Dw and SSDE are too small or missing.",
        "2 of 2 slices: no fat (no subcutaneous fat).",
    ]
    assert figure_lines([(None, "")]) == []
    assert describe(None) == ""
