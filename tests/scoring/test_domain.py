"""Slices that do not show an abdomen, in means, lines, columns, page and plot."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.dicom_files import SERIES, noise, write_ct
from support.drawn_regions import chest, dome, head
from support.tiny_bundle import write_bundle
from support.viewer_page import document

from clinreadnet import cli
from clinreadnet.data.slices import find_slices
from clinreadnet.runtime import Session
from clinreadnet.scoring.domain import domain_lines, domain_mark, domain_reason
from clinreadnet.scoring.result import SeriesReport
from clinreadnet.scoring.run import score_slices
from clinreadnet.scoring.score_file import read_scores
from clinreadnet.scoring.viewer import write_html
from clinreadnet.scoring.write import write_csv


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a series of a head, a chest, the dome of a liver and an abdomen."""
    folder = tmp_path_factory.mktemp("series")
    rng = np.random.default_rng(0)
    for z, hu in enumerate((head(), chest(), dome(), noise())):
        textured = np.rint(hu + rng.normal(0, 8, hu.shape)).astype(np.int16)
        tags = {"ImagePositionPatient": [0, 0, z], "BodyPartExamined": "CHEST"}
        write_ct(folder / f"{z}.dcm", textured, PixelSpacing=[0.6, 0.6], **tags)
    return folder


@pytest.fixture(scope="module")
def report(bundle: Path, folder: Path) -> SeriesReport:
    with Session(bundle) as session:
        return score_slices(session, find_slices([folder]))


def test_slices_outside_are_marked_and_left_out_of_the_mean(report: SeriesReport) -> None:
    assert [s.region for s in report.slices] == ["outside", "outside", "edge", "abdomen"]
    assert [s.in_domain for s in report.slices] == [False, False, True, True]
    assert [domain_mark(s) for s in report.slices] == ["outside", "outside", "edge", ""]
    kept = [s.score for s in report.slices[2:]]
    assert report.series.novel == 2
    assert report.series.mean == pytest.approx(np.mean(kept))
    assert not report.worst.novel and not report.best.novel


def test_each_mark_has_its_reason(report: SeriesReport) -> None:
    reasons = [domain_reason(s) for s in report.slices]
    assert [reason.rpartition(": ")[2] for reason in reasons] == [
        *("head", "chest", "dome of the liver", "")
    ]
    assert domain_lines(report.slices) == [
        "2 of 4 outside the abdomen, marked as novel and left out (head 1; chest 1).",
        "1 of 4 at the edge of the abdomen, where a score says less (dome of the liver 1).",
        "4 of 4 chest by its header (BodyPartExamined): a hint, not proof.",
    ]


def test_a_bundle_without_threshold_still_marks_a_head(tmp_path: Path, folder: Path) -> None:
    with Session(write_bundle(tmp_path / "unjudged", threshold=None)) as session:
        unjudged = score_slices(session, find_slices([folder]))
    assert [s.in_domain for s in unjudged.slices] == [False, False, None, None]
    assert unjudged.series.novel == 2 and unjudged.unjudged is not None


def test_csv_and_summarize_leave_them_out(report: SeriesReport, tmp_path: Path) -> None:
    write_csv(report, tmp_path / "scores.csv")
    rows = list(csv.DictReader((tmp_path / "scores.csv").open(encoding="utf-8")))
    assert [row["region"] for row in rows] == ["outside", "outside", "edge", "abdomen"]
    assert rows[0]["region_reason"].endswith(": head")
    assert {row["header"] for row in rows} == {"chest by its header (BodyPartExamined)"}
    stored, _ = read_scores(tmp_path / "scores.csv")
    assert [s.in_domain for s in stored] == [False, False, True, True]


def test_the_page_says_why(report: SeriesReport, tmp_path: Path) -> None:
    write_html(report, tmp_path / "page.html")
    content = document((tmp_path / "page.html").read_text())
    assert [s["mark"] for s in content["slices"]] == ["outside", "outside", "edge", ""]
    assert "head; chest by its header" in content["slices"][0]["why"]
    assert any("outside the abdomen" in line for line in content["notes"])


def test_the_command_says_it_in_table_and_json(
    bundle: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def run(*more: str) -> str:
        monkeypatch.setattr(
            sys, "argv", ["clinreadnet", "score", str(folder), "--bundle", str(bundle), *more]
        )
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
        return capfd.readouterr().out

    printed = run()
    for text in ("outside", "edge", "2 of 4 outside the abdomen", "a hint, not proof"):
        assert text in printed
    slices: list[dict[str, Any]] = json.loads(run("--json"))["slices"]
    assert [s["region"] for s in slices] == ["outside", "outside", "edge", "abdomen"]
    assert slices[3]["region_reason"] == "" and slices[0]["header"].startswith(
        "chest by its header"
    )
    assert {s["series"] for s in slices} == {SERIES}
