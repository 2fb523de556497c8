"""Site maps: the file, its signature, and both scores in every output of `score`."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import run_command
from support.dicom_files import write_series
from support.site_readers import WEIGHTS, site_map, write_map
from support.tiny_bundle import write_bundle
from typer.testing import CliRunner

from clinreadnet import limits
from clinreadnet.cli import app
from clinreadnet.data.slices import find_slices
from clinreadnet.errors import InputError, Untrusted
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.scoring.plot import write_plot
from clinreadnet.scoring.result import SliceScore
from clinreadnet.scoring.run import score_slices
from clinreadnet.scoring.site_map import (
    read_site_map,
    sign_site_map,
    site_lines,
    site_scores,
)
from clinreadnet.scoring.site_rules import SiteRules

OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def test_it_is_linear_between_its_knots_and_constant_beyond() -> None:
    scores = [0.0, 0.5, 0.75, 1.0, 2.0, 3.5, 4.0]
    expected = [1.25, 1.25, 1.625, 2.0, 3.0, 4.5, 4.5]
    np.testing.assert_allclose(site_map().apply(scores), expected, atol=1e-12)


def test_the_file_holds_the_map(tmp_path: Path) -> None:
    path = write_map(tmp_path / "a.json", patients=None)
    assert read_site_map(path) == site_map(patients=None)
    falling = {"bad": 5.0, "excellent": 1.0, "grades": (4.5, 4.5, 2.0)}
    assert read_site_map(write_map(path, **falling)) == site_map(**falling)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scores": (0.5, 0.5, 3.5)}, "do not ascend inside 0 ... 4"),
        ({"scores": (0.5, 1.0, 4.5)}, "do not ascend inside 0 ... 4"),
        ({"scores": (0.5, 1.0)}, "needs two knots or more"),
        ({"scores": (0.5,), "grades": (2.0,)}, "needs two knots or more"),
        ({"grades": (2.0, 1.0, 4.5)}, "do not rise towards the best grade"),
        ({"grades": (2.0, 2.0, 2.0)}, "do not rise towards the best grade"),
        ({"grades": (1.25, 2.0, 5.5)}, "a grade is not on the scale"),
    ],
)
def test_a_map_that_contradicts_itself_is_refused(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"is not a site map .*{message}.*fit-site-map"):
        read_site_map(write_map(tmp_path / "a.json", **values))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-9],
        lambda text: "[]",
        lambda text: text.replace('"slices"', '"slides"'),
        lambda text: text.replace('"readers": 5', '"readers": 5, "note": 1'),
        lambda text: text.replace('"bad": 1.0', '"bad": "1"'),
        lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
        lambda text: text.replace("0.375", "1e999"),
    ],
    ids=["cut", "list", "missing", "unknown", "text", "newer", "infinite"],
)
def test_another_file_is_refused(change: Any, tmp_path: Path) -> None:
    path = write_map(tmp_path / "a.json")
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(InputError, match="is not a site map"):
        read_site_map(path)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b" " * (limits.SITE_MAP + 1))
    with pytest.raises(InputError, match="at most"):
        read_site_map(tmp_path / "a.json")


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


@OPENSSL
def test_a_signed_map_is_trusted_and_a_changed_one_is_not(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="cryptography is not installed: the extra sign")
    path = write_map(tmp_path / "map.json")
    (own, public), (_, other) = keys(tmp_path, "own"), keys(tmp_path, "other")
    with pytest.raises(
        Untrusted, match=r"map.json: not signed, map.sig is missing; sign it with .*sign .*map.json"
    ):
        read_site_map(path, [public])
    assert sign_site_map(path, own) == tmp_path / "map.sig"
    assert read_site_map(path, [public]) == site_map()
    with pytest.raises(Untrusted, match="not signed by a trusted key"):
        read_site_map(path, [other])
    path.write_text(path.read_text().replace("0.375", "0.125"))
    with pytest.raises(Untrusted, match="changed after it was signed"):
        read_site_map(path, [public])
    with pytest.raises(InputError, match="is not a site map"):
        sign_site_map(own, own)
    with pytest.raises(InputError, match="ends like a signature"):
        sign_site_map(write_map(tmp_path / "a.sig"), own)
    command = ["sign", str(write_map(tmp_path / "b.json")), "--key", str(own)]
    assert CliRunner().invoke(app, command).stdout.strip().endswith("b.sig")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a bundle, a series, and a map for the bundle's weights."""
    folder = tmp_path_factory.mktemp("site")
    write_series(folder / "series", 3)
    write_bundle(folder / "bundle")
    weights = load_manifest(folder / "bundle").model.weights_sha256
    write_map(folder / "map.json", weights_sha256=weights)
    return folder


def score(folder: Path, *arguments: object) -> Any:
    result = run_command("score", folder / "series", "--bundle", folder / "bundle", *arguments)
    assert result.exit_code == 0, result.output
    return result


def test_both_numbers_are_in_every_output(scored: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="highdicom is not installed: the extra dicom")
    outputs = ["--csv", tmp_path / "a.csv", "--html", tmp_path / "a.html", "--sr", tmp_path / "sr"]
    given = ["--site-map", scored / "map.json"]
    text = score(scored, *given, *outputs).stdout
    document = json.loads(score(scored, *given, "--json").stdout)
    scores = [s["score"] for s in document["slices"]]
    expected = np.interp(scores, (0.5, 1.0, 3.5), (1.25, 2.0, 4.5))
    assert not np.allclose(expected, scores)
    assert [s["site_score"] for s in document["slices"]] == pytest.approx(expected)
    assert document["site_map"]["readers"] == 5 and "scores" not in document["site_map"]
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["site_score"]) for row in rows] == pytest.approx(expected, abs=1e-4)
    assert [float(row["score"]) for row in rows] == pytest.approx(scores, abs=1e-4)
    name = "1 (bad) ... 5 (excellent), fitted 2026-01-31T12:00:00Z"
    assert {row["site_map"] for row in (*rows, *document["slices"])} == {name}
    line = "Site scores: the grade of the site's 5 readers, 1 (bad) ... 5 (excellent), by a map"
    for value, own in zip(scores, expected, strict=True):
        assert f"{value:.2f}" in text and f"{own:.2f}" in text
    assert line in text and " site " in text
    page = (tmp_path / "a.html").read_text()
    assert '"site": ' in page and line in page

    import highdicom

    from clinreadnet.dicom.codes import SCORE, SITE_SCORE

    content: Any = highdicom.sr.srread(tmp_path / "sr" / "sr-1.dcm").content
    groups = content.get_image_measurement_groups()
    measured = [group.get_measurements(name=SITE_SCORE)[0].value for group in groups[:3]]
    assert measured == pytest.approx(expected, rel=1e-5)
    assert len(groups[0].get_measurements(name=SCORE)) == 1
    assert line.encode() in (tmp_path / "sr" / "sr-1.dcm").read_bytes()


@pytest.mark.parametrize("falling", [False, True])
def test_a_plot_draws_both_scores_and_names_the_map(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, falling: bool
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the extra plot")
    from matplotlib.figure import Figure

    figures: list[Figure] = []

    def keep(self: Figure, path: Path, dpi: int) -> None:
        figures.append(self)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", keep)
    ends = {"bad": 5.0, "excellent": 1.0, "grades": (4.5, 4.0, 2.0)} if falling else {}
    weights = load_manifest(scored / "bundle").model.weights_sha256
    own = read_site_map(write_map(tmp_path / "map.json", weights_sha256=weights, **ends))
    with Session(scored / "bundle") as session:
        report = score_slices(session, find_slices([scored / "series"]))
    mapped = replace(report, slices=site_scores(report.slices, own), site_map=own)
    write_plot(mapped, tmp_path / "a.png")
    write_plot(report, tmp_path / "a.png")
    both, plain = figures
    (drawn,) = (axes for axes in both.axes if "site score" in axes.get_ylabel())
    np.testing.assert_allclose(
        drawn.lines[0].get_ydata(), own.apply([s.score for s in report.slices])
    )
    low, high = drawn.get_ylim()
    assert (low > own.bad and high < own.excellent) if falling else low < own.bad
    assert own.scale in drawn.get_ylabel()
    assert own.line in both.get_supxlabel().replace("\n", " ")
    assert len(plain.axes) == len(both.axes) - 1 and not plain.get_supxlabel()


def test_scores_beyond_the_fitted_ones_are_counted() -> None:
    slices = [
        SliceScore("a", None, None, score, "fair", 0.0, 4.0, None, None)
        for score in (0.49, 0.5, 2.0, 3.5, 3.6)
    ]
    first, second = site_lines(slices, site_map())
    assert first == site_map().line
    assert second.startswith("2 of 5 scores lie outside 0.50 ... 3.50, which the map was fitted to")
    assert site_lines(slices[1:4], site_map()) == [site_map().line]
    assert site_lines(slices, None) == []


def test_without_a_map_nothing_is_mapped(scored: Path, tmp_path: Path) -> None:
    document = json.loads(score(scored, "--json").stdout)
    assert document["site_map"] is None
    assert {s["site_score"] for s in document["slices"]} == {None}
    assert "site" not in score(scored).stdout.replace(str(scored), "").replace("site0", "")


def test_a_map_for_other_weights_is_refused(scored: Path, tmp_path: Path) -> None:
    other = write_map(tmp_path / "other.json")
    with pytest.raises(InputError, match=f"fitted for weights {WEIGHTS[:12]}, and the bundle has"):
        score(scored, "--site-map", other, "--csv", tmp_path / "a.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.json"]


def test_an_archive_has_a_column_for_it(scored: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: the extra ray")
    from clinreadnet.scoring.archive import score_archive

    with pytest.raises(InputError, match="the site map was fitted for weights"):
        rules = SiteRules(site_map())
        score_archive([scored / "series"], scored / "bundle", tmp_path / "a.parquet", rules=rules)
    assert list(tmp_path.iterdir()) == []
