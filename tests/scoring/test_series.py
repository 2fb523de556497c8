"""`clinreadnet score`: results, files written, and every bad input as one line."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless
from support.dicom_files import (
    MR,
    SERIES,
    bright,
    make_ct,
    noise,
    write,
    write_ct,
    write_enhanced_ct,
    write_series,
)
from support.metaimage_files import write_mha
from support.tiny_bundle import reference, write_bundle

from clinreadnet import cli, files
from clinreadnet.data.acquisition import Acquisition
from clinreadnet.data.header_region import Hint
from clinreadnet.data.slices import find_slices
from clinreadnet.errors import InputError
from clinreadnet.runtime import Session, verdict
from clinreadnet.runtime.bundle import default
from clinreadnet.runtime.bundle.default import BUNDLE_VARIABLE
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.scoring import plot
from clinreadnet.scoring.result import (
    SeriesReport,
    SliceScore,
    slice_scores,
    summarise,
    summary_line,
)
from clinreadnet.scoring.run import score_slices
from clinreadnet.spec import LIKERT, RESEARCH_USE, grade_word

Run = subprocess.CompletedProcess[str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Return a function that runs the command in this process, through `main` as installed."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv(BUNDLE_VARIABLE, raising=False)

    def command(*arguments: str | Path) -> Run:
        monkeypatch.setattr(sys, "argv", ["clinreadnet", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess([], status, out, err)

    return command


def test_json_holds_the_scores_in_order_and_nothing_else_is_printed(
    run: Any, bundle: Path, tmp_path: Path
) -> None:
    folder = write_series(tmp_path / "s", 6)
    done = run("score", folder, "--bundle", bundle, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    expected = reference(np.stack([noise(i) for i in range(6)]))["score"]
    assert [s["position"] for s in result["slices"]] == [0, 2.5, 5, 7.5, 10, 12.5]
    assert [Path(s["path"]).name for s in result["slices"]] == [
        f"IM{i:04d}.dcm" for i in (6, 5, 4, 3, 2, 1)
    ]
    np.testing.assert_allclose([s["score"] for s in result["slices"]], expected, rtol=1e-5)
    assert {s["grade"] for s in result["slices"]} <= set(LIKERT)
    series = result["series"]
    assert series["n"] == 6
    np.testing.assert_allclose(
        [series["mean"], series["min"], series["max"]],
        [expected.mean(), expected.min(), expected.max()],
        rtol=1e-5,
    )
    assert result["research_use"] == RESEARCH_USE
    assert result["session"]["backend"] == "onnxruntime-cpu"


def test_the_table_names_slices_grades_and_research_use(
    run: Any, bundle: Path, tmp_path: Path
) -> None:
    folder = write_series(tmp_path / "s", 3)
    done = run("score", folder, "--bundle", bundle)
    assert done.returncode == 0
    for text in ("IM0001.dcm", "2.5", "good", "3 slices", "mean", "good 100%", RESEARCH_USE):
        assert text in done.stdout


def test_all_kinds_of_input_together(run: Any, bundle: Path, tmp_path: Path) -> None:
    write_enhanced_ct(tmp_path / "e.dcm", 2)
    np.save(tmp_path / "stack.npy", noise(0, (3, 512, 512)))
    encoded = ((noise(4).clip(-1000, 400) + 1000) / 1400).astype(np.float32)
    tifffile.imwrite(tmp_path / "0.tif", encoded)
    paths = [tmp_path / "0.tif", tmp_path / "e.dcm", tmp_path / "stack.npy"]
    done = run("score", *paths, "--bundle", bundle, "--json")
    slices = json.loads(done.stdout)["slices"]
    assert [(Path(s["path"]).name, s["frame"], s["position"]) for s in slices] == [
        ("0.tif", None, None),
        ("e.dcm", 1, -5),
        ("e.dcm", 0, 0),
        ("stack.npy", 0, None),
        ("stack.npy", 1, None),
        ("stack.npy", 2, None),
    ]


def test_notes_go_to_standard_error(run: Any, bundle: Path, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", 1)
    (folder / "LICENSE.txt").write_text("free")
    done = run("score", folder, "--bundle", bundle, "--json")
    json.loads(done.stdout)
    assert done.stderr.count("\n") == 1 and "LICENSE.txt" in done.stderr


def test_csv_and_plot_are_written_whole(run: Any, bundle: Path, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", 3)
    table, picture = Path("scores.csv"), Path("scores.png")
    table.write_text("old")
    done = run("score", folder, "--bundle", bundle, "--csv", table, "--plot", picture)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(table.open()))
    assert list(rows[0]) == [
        *("path", "frame", "position", "score", "grade"),
        *("low", "high", "novelty", "in_domain", "series"),
        *("region", "region_reason", "header", "sop_instance_uid"),
        *("site_score", "site_map"),
        *("ctdi_vol_mgy", "exposure_mas", "kvp", "kernel", "thickness_mm"),
        *("scanner", "protocol", "acquired", "exposure_source", "device", "ctdi_phantom_cm"),
        "tube_current_ma",
    ]
    assert [float(r["position"]) for r in rows] == [0, 2.5, 5]
    assert {(r["low"], r["high"], r["in_domain"]) for r in rows} == {("0.2", "3.8", "true")}
    novelty = reference(np.stack([noise(i) for i in range(3)]))["novelty"]
    np.testing.assert_allclose([float(r["novelty"]) for r in rows], novelty, atol=1e-4)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir()) == ["scores.csv", "scores.png"]


def test_the_plot_shows_the_extremes_under_their_maps(bundle: Path, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", 3)
    write_ct(folder / "worst.dcm", noise() - 30, ImagePositionPatient=[0, 0, 90])
    write_ct(folder / "best.dcm", noise() + 30, ImagePositionPatient=[0, 0, 91])
    report = score_slices(Session(bundle), find_slices([folder]))
    assert report.worst.ref.path.name == "worst.dcm" and report.best.ref.path.name == "best.dcm"
    np.testing.assert_allclose(
        report.worst.quality_map, reference(noise()[None] - 30)["quality_map"][0], rtol=1e-4
    )
    plot.write_plot(report, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "<svg" in text and text.count("<image") >= 4  # each slice alone and under its map


def scored(*scores: float, in_domain: bool | None = True) -> list[SliceScore]:
    return [
        SliceScore("a", None, None, value, grade_word(value), 0.0, 4.0, 1.0, in_domain)
        for value in scores
    ]


@pytest.mark.parametrize("count", [2, 5, 34])
def test_the_plot_has_a_panel_for_each_series(
    bundle: Path, tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    refs = find_slices([write_series(tmp_path / "s", 2)])
    scores = Session(bundle).score(np.stack([ref.load() for ref in refs] * count))
    refs = [replace(ref, series=f"1.2.{n}") for n in range(count) for ref in refs]
    report = SeriesReport(slice_scores(refs, scores), refs, scores)
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, dpi: figures.append(self))
    monkeypatch.setattr(plot, "whole_file", lambda target: open(tmp_path / "x", "w"))
    plot.write_plot(report, tmp_path / "a.png")
    panels = [axes for axes in figures[0].axes if axes.get_title()[:1].isdigit()]
    assert len(panels) == min(count, plot.MOST_SERIES)
    title = figures[0].get_suptitle()
    assert f"{2 * count} slices of {count} series." in title
    assert (f"The first {plot.MOST_SERIES} of them." in title) is (count > plot.MOST_SERIES)
    for number, axes in enumerate(panels):
        scored, mean = axes.lines  # no line leaves its series
        own = report.slices[2 * number : 2 * number + 2]
        assert np.asarray(scored.get_xdata()).tolist() == [s.position for s in own]
        assert np.asarray(scored.get_ydata()).tolist() == [s.score for s in own]
        assert np.asarray(mean.get_ydata())[0] == pytest.approx(np.mean([s.score for s in own]))
        assert axes.get_title().startswith(f"{number + 1}: 2 slices, mean ")


def test_the_summary_counts_grade_words() -> None:
    summary = summarise(scored(0.2, 0.6, 3.4, 3.6))
    assert summary.shares == {"bad": 0.25, "poor": 0.25, "fair": 0, "good": 0.25, "excellent": 0.25}
    assert (summary.n, summary.min, summary.max) == (4, 0.2, 3.6)
    assert summary.mean == pytest.approx(1.95)
    assert summary.novel == 0 and "novel" not in summary_line(summary)


def test_the_summary_leaves_marked_slices_out_and_says_so() -> None:
    summary = summarise([*scored(3.0, 3.4), *scored(0.0, in_domain=False)])
    assert (summary.n, summary.novel, summary.min, summary.max) == (3, 1, 3.0, 3.4)
    assert summary.mean == pytest.approx(3.2)
    assert summary.shares["good"] == 1 and summary.shares["bad"] == 0
    line = summary_line(summary)
    assert line.startswith("3 slices, 1 of them marked as novel and left out: mean 3.20")


def test_a_series_of_marked_slices_has_no_mean() -> None:
    summary = summarise(scored(3.0, 3.4, in_domain=False))
    assert (summary.n, summary.novel) == (2, 2)
    assert (summary.mean, summary.min, summary.max) == (None, None, None)
    assert set(summary.shares.values()) == {0}
    assert summary_line(summary).startswith("2 slices, all marked as novel")


def test_where_nothing_is_judged_all_slices_count() -> None:
    summary = summarise(scored(3.0, 3.4, in_domain=None))
    assert (summary.n, summary.novel, summary.mean) == (2, None, pytest.approx(3.2))
    assert "novel" not in summary_line(summary)


NOVEL = bright(9)
"""Brighter than the bundle's threshold."""


def write_marked(folder: Path) -> Path:
    """Write a series of three slices, the second of them novel."""
    for i, hu in enumerate((noise(0), NOVEL, noise(2))):
        write_ct(folder / f"{i}.dcm", hu, ImagePositionPatient=[0, 0, i])
    return folder


def test_a_novel_slice_is_marked_everywhere(run: Any, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    folder = write_marked(tmp_path / "s")
    done = run("score", folder, "--bundle", bundle, "--csv", "a.csv", "--plot", "a.svg")
    assert (done.returncode, done.stderr) == (0, "")
    marked = [line for line in done.stdout.splitlines() if re.search(r"\bnovel\b", line)]
    assert ["1.dcm" in line for line in marked] == [True, False]
    assert "3 slices, 1 of them marked as novel and left out: mean" in marked[1]
    assert "0.2 ... 3.8" in marked[0] and "90%" in done.stdout
    rows = list(csv.DictReader(Path("a.csv").open()))
    assert [row["in_domain"] for row in rows] == ["true", "false", "true"]
    drawn = Path("a.svg").read_text()
    assert "<!-- 3 slices, 90% intervals (bars), mean" in drawn
    assert "1 marked as novel (crosses) and left out -->" in drawn

    result = json.loads(run("score", folder, "--bundle", bundle, "--json").stdout)
    assert [s["in_domain"] for s in result["slices"]] == [True, False, True]
    assert [s["grade"] == "not graded" for s in result["slices"]] == [False, True, False]
    assert all((s["low"], s["high"]) == (0.2, 3.8) for s in result["slices"])
    assert result["slices"][1]["novelty"] > result["session"]["novelty_threshold"]
    kept = reference(np.stack([noise(0), noise(2)]))["score"]
    assert (result["series"]["n"], result["series"]["novel"]) == (3, 1)
    assert result["series"]["mean"] == pytest.approx(kept.mean(), rel=1e-5)
    assert result["session"]["unjudged"] is None


def test_a_novel_slice_is_no_extreme_unless_all_are(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    session = Session(bundle)
    report = score_slices(session, find_slices([write_marked(tmp_path / "s")]))
    assert {report.worst.ref.path.name, report.best.ref.path.name} == {"0.dcm", "2.dcm"}
    assert not report.best.novel
    report = score_slices(session, find_slices([tmp_path / "s" / "1.dcm"]))
    assert report.best.novel and report.best.ref.path.name == "1.dcm"
    plot.write_plot(report, tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert "no mean, 1 marked as novel" in drawn and "(novel) -->" in drawn


def test_only_novel_slices_give_no_mean(run: Any, bundle: Path, tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", NOVEL)
    done = run("score", path, "--bundle", bundle)
    assert done.returncode == 0
    assert "1 slice, all marked as novel" in done.stdout and "mean 3" not in done.stdout
    series = json.loads(run("score", path, "--bundle", bundle, "--json").stdout)["series"]
    assert (series["mean"], series["novel"]) == (None, 1)


def test_a_bundle_without_threshold_says_that_no_slice_is_judged(run: Any, tmp_path: Path) -> None:
    unjudged = write_bundle(tmp_path / "unjudged", threshold=None)
    (tmp_path / "s").mkdir()
    folder = write_marked(tmp_path / "s")
    done = run("score", folder, "--bundle", unjudged, "--csv", "a.csv", "--plot", "a.png")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if "novelty threshold" in line]
    assert len(lines) == 1 and "no novelty threshold, so slices cannot be classified" in lines[0]
    assert "3 slices: mean" in done.stdout
    rows = list(csv.DictReader(Path("a.csv").open()))
    assert {row["in_domain"] for row in rows} == {""} and all(row["novelty"] for row in rows)
    result = json.loads(run("score", folder, "--bundle", unjudged, "--json").stdout)
    assert {s["in_domain"] for s in result["slices"]} == {None}
    assert "slices cannot be classified" in result["session"]["unjudged"]
    assert result["series"]["novel"] is None


def test_the_bundle_is_found_by_environment_then_folder(
    run: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_ct(tmp_path / "a.dcm")
    monkeypatch.setattr(default, "SHIPPED", tmp_path / "broken")
    done = run("score", path)
    assert done.returncode == 2 and "install clinreadnet again" in done.stderr
    Path("bundle").symlink_to(bundle)
    assert run("score", path).returncode == 0
    Path("bundle").unlink()
    monkeypatch.setenv(BUNDLE_VARIABLE, str(bundle))
    assert run("score", path).returncode == 0


def test_only_one_batch_ahead_is_read(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that runs far ahead would fill the memory."""
    session = Session(bundle, batch=2)
    read = scored = 0

    class Ref:
        path, frame, position, series = Path("x"), None, None, "s"
        acquisition = Acquisition()
        loaded_mm, hint, instance_uid = 0.7, Hint(), ""

        def load_compact(self) -> np.ndarray:
            nonlocal read
            read += 1
            assert read <= scored + 3 * session.batch
            return noise(read)

    def advance(n: int) -> None:
        nonlocal scored
        scored += n

    report = score_slices(session, [Ref() for _ in range(11)], advance=advance)
    assert report.series.n == scored == read == 11


def make_truncated(folder: Path) -> Path:
    path = write_ct(folder / "a.dcm")
    path.write_bytes(path.read_bytes()[:100_000])
    return path


def make_text(folder: Path) -> Path:
    path = folder / "a.dcm"
    path.write_text("This is a text file that calls itself DICOM.\n" * 20)
    return path


def make_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def make_npy(array: np.ndarray) -> Any:
    def make(folder: Path) -> Path:
        np.save(folder / "a.npy", array)
        return folder / "a.npy"

    return make


def make_tif(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif", np.linspace(0, 2, 512 * 512, dtype="f4").reshape(512, 512))
    return folder / "a.tif"


NAN = noise().astype(np.float32)
NAN[0, 0] = np.nan
BAD: dict[str, tuple[Any, str]] = {
    "missing": (lambda folder: folder / "nowhere.dcm", "no such file or folder"),
    "empty-folder": (make_folder, "an empty folder"),
    "text-called-dcm": (make_text, "not a DICOM file"),
    "truncated": (make_truncated, "truncated"),
    "localiser": (
        lambda folder: write_ct(folder / "a.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "a localiser",
    ),
    "mr": (
        lambda folder: write_ct(folder / "a.dcm", SOPClassUID=MR, Modality="MR"),
        "MR Image Storage (modality MR), not CT",
    ),
    "wrong-size": (
        lambda folder: write_ct(folder / "a.dcm", noise(0, (256, 256))),
        "256x256 pixels, the network takes 512x512; give --resample",
    ),
    "nan": (make_npy(NAN), "NaN or infinity"),
    "constant": (make_npy(np.zeros((512, 512), np.int16)), "blank, every pixel is 0 HU"),
    "tif-above-one": (make_tif, "a.tif"),
}


@pytest.mark.parametrize("companion", [False, True], ids=["alone", "after-good-slices"])
@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_input_is_one_line_status_2_and_no_output(
    run: Any, bundle: Path, tmp_path: Path, make: Any, message: str, companion: bool
) -> None:
    (tmp_path / "in").mkdir()
    paths = [make(tmp_path / "in")]
    if companion:
        paths.insert(0, write_series(tmp_path / "good", 9, SeriesInstanceUID="1.2.3"))
    outputs = ["--csv", "a.csv", "--plot", "a.png"]
    done = run("score", *paths, "--bundle", bundle, "--json", *outputs)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("clinreadnet: ") and done.stderr.count("\n") == 1
    assert message in done.stderr and str(paths[-1]) in done.stderr
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--csv", "nowhere/a.csv"], "nowhere: no such folder"),
        (["--csv", "."], "is a folder"),
        (["--plot", "a.doc"], "cannot draw that format"),
        (["--backend", "tpu"], "--backend tpu: unknown; known: tensorrt"),
        (["--precision", "int8"], "no ONNX graph in precision 'int8'"),
        (["--bundle", "nowhere"], "clinreadnet export --out nowhere"),
    ],
    ids=["csv-folder-missing", "csv-is-folder", "plot-format", "backend", "precision", "bundle"],
)
def test_bad_options_are_refused_before_scoring(
    run: Any,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(
        "clinreadnet.scoring.run.score_slices", lambda *a, **k: pytest.fail("scored")
    )
    monkeypatch.setenv(BUNDLE_VARIABLE, str(bundle))
    done = run("score", write_ct(tmp_path / "a.dcm"), *options)
    assert done.returncode == 2 and done.stdout == "" and os.listdir() == []
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_a_missing_matplotlib_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "clinreadnet\[plot\]"'):
        plot.check_plot(Path("a.png"))


def test_a_failed_self_test_is_status_1(run: Any, tmp_path: Path) -> None:
    bad = write_bundle(tmp_path / "b", score_offset=0.5)
    done = run("score", write_ct(tmp_path / "a.dcm"), "--bundle", bad)
    assert done.returncode == 1 and "self-test failed" in done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1


def test_8_bits_on_a_processor_without_their_products_are_reported_as_slow(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = write_bundle(tmp_path / "b", precisions=("fp32", "int8"))
    path = write_ct(tmp_path / "a.dcm")
    monkeypatch.setattr(verdict, "multiplies_bytes", lambda: False)
    done = run("score", path, "--bundle", bundle, "--precision", "int8")
    assert done.returncode == 0 and "a.dcm" in done.stdout
    assert "has no instructions for 8-bit products: int8 may be slower than fp32" in done.stderr
    assert run("score", path, "--bundle", bundle).stderr == ""


def test_resample_scores_other_sizes(run: Any, bundle: Path, tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", noise(0, (1024, 1024)))
    done = run("score", path, "--bundle", bundle, "--resample", "--json")
    assert json.loads(done.stdout)["series"]["n"] == 1


def test_the_installed_command_runs_without_torch(bundle: Path, tmp_path: Path) -> None:
    """A real process without torch: status, streams, and no traceback."""
    (tmp_path / "torch.py").write_text("raise ImportError('not here')")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "clinreadnet.cli", "score", "--bundle", str(bundle)]
    good = write_ct(tmp_path / "a.dcm")
    done = subprocess.run([*command, str(good)], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and done.stderr == "" and "a.dcm" in done.stdout
    bad = make_truncated(tmp_path)
    done = subprocess.run([*command, str(bad)], capture_output=True, text=True, env=env)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"clinreadnet: .*a\.dcm: truncated, .*\n", done.stderr)


def test_the_challenges_container_interface(run: Any, bundle: Path, tmp_path: Path) -> None:
    stack = np.stack([noise(i) for i in range(5)]).astype(np.float32)
    encoded = np.clip((stack + 1000) / 1400, 0, 1)
    mha, out = write_mha(tmp_path / "stack.mha", encoded, compress=True), tmp_path / "output"
    out.mkdir()
    done = run("score", mha, "--bundle", bundle, "--challenge-output", out)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in out.iterdir()] == ["image-quality-scores.json"]
    scores = json.loads((out / "image-quality-scores.json").read_text())
    assert all(isinstance(score, float) for score in scores)
    np.testing.assert_allclose(scores, reference(stack)["score"], rtol=1e-4)


def test_a_missing_challenge_output_is_refused_before_anything_is_scored(
    run: Any, bundle: Path, tmp_path: Path
) -> None:
    done = run("score", tmp_path, "--bundle", bundle, "--challenge-output", tmp_path / "none")
    assert done.returncode == 2 and "none: no such folder; create it first" in done.stderr


def spoil(folder: Path) -> Path:
    """Write a good slice, a truncated slice and a slice whose pixels cannot be decoded."""
    write_ct(folder / "good.dcm")
    make_truncated(folder)
    ds = make_ct(noise(3))
    ds.compress(RLELossless)
    ds.PixelData = encapsulate([bytes(64) + b"Doe^Jane" * 40])
    write(folder / "odd.dcm", ds)
    return folder


def test_a_damaged_slice_ends_the_command_without_scores(
    run: Any, bundle: Path, tmp_path: Path
) -> None:
    done = run("score", spoil(tmp_path), "--bundle", bundle)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "a.dcm: truncated" in done.stderr
    assert done.stderr.endswith("; --keep-going leaves it out\n")
    done = run("score", tmp_path / "good.dcm", tmp_path / "odd.dcm", "--bundle", bundle)
    assert done.returncode == 2 and "odd.dcm: pixel data cannot be decoded" in done.stderr
    assert done.stderr.endswith("; --keep-going leaves it out\n")
    np.save(tmp_path / "stack.npy", np.stack([noise(0), np.zeros((512, 512), np.float32) + 40]))
    done = run("score", tmp_path / "stack.npy", "--bundle", bundle)
    assert done.returncode == 2 and "stack.npy[1]: not a CT slice" in done.stderr
    assert done.stderr.endswith("; --keep-going leaves it out\n")
    done = run("score", tmp_path / "odd.dcm", "--bundle", bundle)
    assert done.returncode == 2 and "--keep-going" not in done.stderr


def test_no_hint_where_every_slice_is_damaged(run: Any, bundle: Path, tmp_path: Path) -> None:
    spoil(tmp_path)
    (tmp_path / "good.dcm").unlink()
    for paths in ([tmp_path], [tmp_path / "odd.dcm", tmp_path / "a.dcm"]):
        done = run("score", *paths, "--bundle", bundle)
        assert done.returncode == 2 and "a.dcm: truncated" in done.stderr
        assert "--keep-going" not in done.stderr
    (tmp_path / "odd.dcm").unlink()
    done = run("score", tmp_path, "--bundle", bundle, "--keep-going")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.endswith("clinreadnet: no slices can be read; the lines above say why\n")
    np.save(tmp_path / "flat.npy", np.full((2, 512, 512), 40, np.float32))
    done = run("score", tmp_path / "flat.npy", "--bundle", bundle)
    assert done.returncode == 2 and "flat.npy[0]: not a CT slice" in done.stderr
    assert "--keep-going" not in done.stderr


def test_keep_going_leaves_damaged_slices_out_and_counts_them(
    run: Any, bundle: Path, tmp_path: Path
) -> None:
    done = run("score", spoil(tmp_path), "--bundle", bundle, "--keep-going", "--json")
    assert done.returncode == 1
    assert [Path(s["path"]).name for s in json.loads(done.stdout)["slices"]] == ["good.dcm"]
    lines = done.stderr.splitlines()
    assert "left out" in lines[0] and "a.dcm" in lines[0] and "odd.dcm" in lines[1]
    assert "2 damaged and left out, 1 scored" in lines[2]
    assert "Doe" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_fails_does_not_hide_the_damaged_slices(
    run: Any, bundle: Path, tmp_path: Path
) -> None:
    keep = ("--keep-going", "--html", "/dev/full")
    done = run("score", spoil(tmp_path), "--bundle", bundle, *keep)
    assert done.returncode == 2  # 1 would be a complete page of the other slices
    assert "2 damaged and left out, 1 scored" in done.stderr and "/dev/full" in done.stderr


def test_an_output_that_is_an_input_is_refused(run: Any, bundle: Path, tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm")
    content = path.read_bytes()
    for target in (path, bundle / "golden.npz"):
        done = run("score", tmp_path, "--bundle", bundle, "--csv", target)
        assert done.returncode == 2 and "is also an input" in done.stderr
        assert done.stdout == "" and path.read_bytes() == content


def test_a_file_on_standard_output_takes_the_tables_place(
    run: Any, bundle: Path, tmp_path: Path
) -> None:
    path = write_ct(tmp_path / "a.dcm")
    done = run("score", path, "--bundle", bundle, "--csv", "-")
    (row,) = csv.DictReader(done.stdout.splitlines())
    assert row["path"] == str(path) and row["series"] == SERIES
    both = run("score", path, "--bundle", bundle, "--csv", "-", "--json")
    assert both.returncode == 2 and "--csv and --json" in both.stderr
    done = run("score", path, "--bundle", bundle, "--html", "-")
    assert done.returncode == 0 and done.stdout.startswith("<!")
    both = run("score", path, "--bundle", bundle, "--html", "-", "--json")
    assert both.returncode == 2 and "--html and --json" in both.stderr


def test_a_disk_that_fills_up_does_not_cost_the_scores(
    run: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = write_ct(tmp_path / "a.dcm")
    Path("a.csv").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    done = run("score", path, "--bundle", bundle, "--csv", "a.csv", "--json")
    assert done.returncode == 2 and len(json.loads(done.stdout)["slices"]) == 1
    assert done.stderr == "clinreadnet: a.csv: No space left on device; free some space\n"
    assert Path("a.csv").read_text() == "old" and os.listdir() == ["a.csv"]


def test_a_pipe_without_a_reader_does_not_cost_the_scores(
    run: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "READER_SECONDS", 0.1)
    os.mkfifo("pipe")
    path = write_ct(tmp_path / "a.dcm")
    done = run("score", path, "--bundle", bundle, "--csv", "pipe", "--json")
    assert done.returncode == 2 and len(json.loads(done.stdout)["slices"]) == 1
    assert "pipe: no program reads this pipe" in done.stderr


def test_several_series_get_a_mean_each(run: Any, bundle: Path, tmp_path: Path) -> None:
    for number in range(2):
        write_series(tmp_path / str(number), 2, SeriesInstanceUID=f"{SERIES}.{number}")
    done = run("score", tmp_path, "--bundle", bundle)
    assert "series" in done.stdout and "highest" in done.stdout
    for number in range(2):
        assert re.search(rf"{number + 1}: {re.escape(SERIES)[:20]}", done.stdout)
    document = json.loads(run("score", tmp_path, "--bundle", bundle, "--json").stdout)
    assert document["series"] is None
    assert [(s["series"], s["n"]) for s in document["by_series"]] == [
        (f"{SERIES}.0", 2),
        (f"{SERIES}.1", 2),
    ]
    assert len({s["series"] for s in document["slices"]}) == 2


def test_several_series_of_one_slice_get_one_table(run: Any, bundle: Path, tmp_path: Path) -> None:
    for number in range(3):
        write_series(tmp_path / str(number), 1, SeriesInstanceUID=f"{SERIES}.{number}")
    done = run("score", tmp_path, "--bundle", bundle)
    assert "3 series of one slice each" in done.stdout
    assert "lowest" not in done.stdout and done.stdout.count("┏") == 1


@pytest.mark.parametrize(
    ("columns", "shown", "left_out"),
    [
        (100, ["series", "position", "score", "90%", "grade"], []),
        (70, ["series", "position", "score", "grade"], ["90%"]),
        (60, ["series", "score", "grade"], ["90%", "position"]),
        (40, ["score"], ["90%", "position", "series"]),
    ],
)
def test_a_narrow_terminal_leaves_columns_out_and_never_the_score(
    run: Any,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
    shown: list[str],
    left_out: list[str],
) -> None:
    names = [f"a-long-name-of-a-slice-{number}" for number in range(3)]
    for number, name in enumerate(names):
        series = f"{SERIES}.{min(number, 1)}"
        write_ct(tmp_path / name, noise(number), SeriesInstanceUID=series)
    monkeypatch.setenv("COLUMNS", str(columns))
    printed = run("score", tmp_path, "--bundle", bundle).stdout
    table = printed[printed.index("┏") : printed.index("└")]
    head = table.splitlines()[1]
    assert all(heading in head for heading in shown)
    assert not any(heading in head for heading in left_out)
    assert all(len(line) <= columns for line in table.splitlines())
    cells = [line.split("│") for line in table.splitlines() if line.startswith("│")]
    assert "".join(row[1].strip() for row in cells) == "".join(names)
    assert len(re.findall(r"│ +\d\.\d\d ", table)) == 3


def test_the_last_lines_say_what_ran(run: Any, bundle: Path, tmp_path: Path) -> None:
    done = run("score", write_ct(tmp_path / "a.dcm"), "--bundle", bundle)
    weights = load_manifest(bundle).model.weights_sha256[:12]
    assert re.search(rf"Scored by \S+ in fp32 with weights \w+ {weights}", done.stdout)


@pytest.mark.parametrize(
    "outputs",
    [
        ["--csv", "x.csv", "--plot", "./x.csv"],
        ["--csv", "x.html", "--html", "x.html"],
        ["--sr", "x", "--map", "x"],
        ["--sr", "x", "--map", "x/maps"],
        ["--sr", "x", "--csv", "x/a.csv"],
    ],
    ids=" ".join,
)
def test_two_outputs_with_one_place_are_refused(
    run: Any, bundle: Path, tmp_path: Path, outputs: list[str]
) -> None:
    done = run("score", write_ct(tmp_path / "a.dcm"), "--bundle", bundle, *outputs)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert outputs[0] in done.stderr and outputs[2] in done.stderr
    assert not (set(os.listdir()) & {"x", "x.csv", "x.html"})


def test_an_existing_folder_of_reports_is_refused_without_an_option_that_is_not_there(
    run: Any, bundle: Path, tmp_path: Path
) -> None:
    Path("reports").mkdir()
    done = run("score", write_ct(tmp_path / "a.dcm"), "--bundle", bundle, "--sr", "reports")
    assert done.returncode == 2
    assert done.stderr == "clinreadnet: reports: already exists; remove it, or name another\n"


@pytest.mark.parametrize("name", ["CT[axial].dcm", "a[/b].dcm".replace("/", "\\"), "[red]x.dcm"])
def test_names_are_printed_as_they_are(
    run: Any, bundle: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = run("score", write_ct(tmp_path / name), "--bundle", bundle)
    assert done.returncode == 0 and name in done.stdout


def test_names_that_are_not_utf_8_are_escaped(run: Any, bundle: Path, tmp_path: Path) -> None:
    path = write_ct(tmp_path / os.fsdecode(b"name\xe9$x$.dcm"))
    files = ("--csv", "a.csv", "--plot", "a.png")
    done = run("score", path, "--bundle", bundle, *files)
    assert done.returncode == 0, done.stderr
    assert "name\\xe9" in done.stdout and "name\\udce9" in Path("a.csv").read_text("utf-8")


def test_an_empty_argument_is_refused(run: Any, bundle: Path) -> None:
    done = run("score", "", "--bundle", bundle)
    assert done.returncode == 2 and "an argument is empty" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reader"),
    [
        ("score {folder} --bundle {bundle}", "true"),
        ("score {folder} --bundle {bundle} --json", "head -n 1"),
        ("--help", "true"),
        ("doctor", "head -n 1"),
    ],
    ids=["score", "json", "help", "doctor"],
)
def test_a_reader_that_has_seen_enough_is_no_error(
    bundle: Path, tmp_path: Path, arguments: str, reader: str
) -> None:
    folder = write_series(tmp_path / "s", 2)
    words = arguments.format(folder=folder, bundle=bundle)
    # Every print reaches the pipe at once: the first that fails is inside the command.
    command = f"{sys.executable} -u -m clinreadnet.cli {words} | {reader} > /dev/null"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


WRITERS = {
    "--plot": "clinreadnet.scoring.plot.write_plot",
    "--html": "clinreadnet.scoring.viewer.write_html",
    "--pdf": "clinreadnet.scoring.pdf.write_pdf",
    "--sr": "clinreadnet.dicom.structured_report.write_reports",
    "--map": "clinreadnet.dicom.quality_map.write_maps",
    "--secondary-capture": "clinreadnet.dicom.quality_map.write_captures",
    "--csv": "clinreadnet.scoring.write.write_csv",
}


@pytest.mark.sample(every=2)  # of seven options: each with the table or with JSON
@pytest.mark.parametrize("option", WRITERS)
@pytest.mark.parametrize("as_json", [False, True], ids=["table", "json"])
def test_a_writer_that_fails_costs_neither_the_scores_nor_another_output(
    run: Any,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    as_json: bool,
) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise TypeError("value of patient_name: 'Secret^Name'\nand more")

    monkeypatch.setattr(WRITERS[option], broken)
    outputs = {name: name.strip("-") for name in WRITERS}
    outputs |= {"--plot": "a.png", "--html": "a.html", "--pdf": "a.pdf", "--csv": "a.csv"}
    given = [part for pair in outputs.items() for part in pair]
    path = write_ct(tmp_path / "a.dcm")
    done = run("score", path, "--bundle", bundle, *given, *(["--json"] if as_json else []))
    assert done.returncode == 1
    if as_json:
        assert len(json.loads(done.stdout)["slices"]) == 1
    else:
        assert "1 slice: mean" in done.stdout
    why = r"not written \(TypeError in scoring/test_series\.py:\d+\); the scores are complete"
    assert re.fullmatch(rf"clinreadnet: {outputs[option]}: {why}\n", done.stderr)
    assert sorted(os.listdir()) == sorted(set(outputs.values()) - {outputs[option]})


def test_two_writers_that_fail_have_a_line_each(
    run: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise KeyError("Secret^Name")

    for option in ("--sr", "--map"):
        monkeypatch.setattr(WRITERS[option], broken)
    path = write_ct(tmp_path / "a.dcm")
    done = run("score", path, "--bundle", bundle, "--sr", "sr", "--map", "map")
    assert done.returncode == 1 and "1 slice: mean" in done.stdout
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == [" map", " sr"]
    assert "Secret" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_costs_no_other_output(bundle: Path, tmp_path: Path) -> None:
    write_ct(tmp_path / "a.dcm")
    command = [sys.executable, "-m", "clinreadnet.cli", "score", "a.dcm", "--bundle", bundle]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*command, "--sr", "sr", "--csv", "a.csv"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert (tmp_path / "sr" / "sr-1.dcm").exists() and (tmp_path / "a.csv").exists()
