"""`clinreadnet agree`: the measures, the groups, the notes, the table, the page and bad input."""

from __future__ import annotations

import io
import json
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from support.command import run_command
from support.score_files import write_csv, write_json, write_parquet
from support.site_readers import site, widened, write_grades

from clinreadnet.errors import InputError
from clinreadnet.readers.agreement import agree
from clinreadnet.readers.agreement_table import print_agreement
from clinreadnet.readers.labels import Scale
from clinreadnet.scoring.estimate import FEWEST
from clinreadnet.spec import RESEARCH_USE

run = partial(run_command, "agree")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    grades, scores = site(patients=24)
    return write_grades(tmp_path / "site.csv", grades), write_csv(tmp_path / "scores.csv", scores)


def changed(folder: Path, change: Any, **options: Any) -> tuple[Path, Path]:
    """Write the files of a site, with changed rows of grades."""
    grades, scores = site(**options)
    rows = [new for new in map(change, grades) if new is not None]
    return write_grades(folder / "a.csv", rows), write_csv(folder / "b.csv", scores)


def test_measures_of_the_score_are_those_of_scipy(files: tuple[Path, Path]) -> None:
    result = agree(*files)
    x, y = result.scaled_score, result.mean_grade
    assert result.score["plcc"]["value"] == pytest.approx(stats.pearsonr(x, y).statistic)
    assert result.score["srocc"]["value"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert result.score["krocc"]["value"] == pytest.approx(stats.kendalltau(x, y).statistic)
    assert result.score["mae"]["value"] == pytest.approx(np.abs(x - y).mean())
    assert all(v["low"] < v["value"] < v["high"] for v in result.score.values())
    grades = result.reading.labels.grades
    others = [np.delete(grades, k, axis=1).mean(axis=1) for k in range(3)]
    expected = np.mean([stats.pearsonr(grades[:, k], others[k]).statistic for k in range(3)])
    assert result.reader["plcc"] == pytest.approx(expected)
    assert result.reader["kappa"] == pytest.approx(result.among["kappa"]["value"])


def test_a_pair_has_the_limits_of_bland_and_altman(files: tuple[Path, Path]) -> None:
    result = agree(*files)
    assert [(p.first, p.second) for p in result.pairs] == [
        *[("A", "B"), ("A", "C"), ("B", "C")],
        *[("A", "score"), ("B", "score"), ("C", "score")],
    ]
    grades = result.reading.labels.grades
    difference = grades[:, 1] - grades[:, 0]
    first = result.pairs[0]
    assert (first.slices, first.bias) == (72, pytest.approx(difference.mean()))
    reach = 1.96 * difference.std(ddof=1)
    assert (first.low, first.high) == (first.bias - reach, first.bias + reach)


def test_another_scale_changes_no_agreement(tmp_path: Path) -> None:
    grades, scores = site()
    rows = write_csv(tmp_path / "s.csv", scores)
    plain = agree(write_grades(tmp_path / "a.csv", grades), rows)
    for scale in (Scale(1, 5), Scale(5, 1)):
        moved = [row | {"grade": scale.of_score(int(row["grade"]))} for row in grades]
        other = agree(write_grades(tmp_path / "b.csv", moved), rows, scale)
        for name in plain.among:
            assert other.among[name] == pytest.approx(plain.among[name])
        for name in plain.score:
            assert other.score[name] == pytest.approx(plain.score[name])
    wrong = agree(tmp_path / "b.csv", rows, Scale(1, 5))
    assert any("state the scale so, as --scale 5:1" in line for line in wrong.notes)


def test_intervals_over_patients_are_wider_than_over_slices(tmp_path: Path) -> None:
    grades, scores = site(patients=15, slices=8)
    rows = write_csv(tmp_path / "s.csv", scores)
    patients = agree(write_grades(tmp_path / "a.csv", grades), rows)
    unnamed = [{k: v for k, v in row.items() if k != "patient"} for row in grades]
    slices = agree(write_grades(tmp_path / "b.csv", unnamed), rows)
    assert (patients.clusters, slices.clusters) == (15, 120)
    wide, narrow = (r.among["icc"]["high"] - r.among["icc"]["low"] for r in (patients, slices))
    assert wide > 1.3 * narrow
    assert any("no patient is stated: intervals are over slices" in n for n in slices.notes)
    assert not any("no patient" in line for line in patients.notes)


def test_groups_need_enough_patients(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        patient = int(row["patient"][1:])
        few = "rare" if patient < FEWEST - 1 else "routine"
        return row | {"protocol": few, "size": f"{20 + patient}"}

    result = agree(*changed(tmp_path, change, patients=24))
    groups = {(group.by, group.name): group for group in result.groups}
    assert list(groups) == [
        *[("scanner", "Maker 0"), ("scanner", "Maker 1")],
        *[("protocol", "rare"), ("protocol", "routine")],
        *[("size", "20 ... 27.67"), ("size", "27.67 ... 35.33"), ("size", "35.33 ... 43")],
    ]
    assert groups["protocol", "rare"].score is None
    assert sum(group.slices for group in result.groups if group.by == "size") == 72
    assert f"1 of 7 groups has fewer than {FEWEST} patients and no values" in result.notes


def test_few_patients_have_no_intervals(tmp_path: Path) -> None:
    result = agree(*changed(tmp_path, lambda row: row, patients=FEWEST - 1))
    assert all(np.isnan(v["low"]) for v in (*result.among.values(), *result.score.values()))
    assert f"fewer than {FEWEST} patients: no intervals" in result.notes


def test_readers_who_graded_different_slices(tmp_path: Path) -> None:
    def apart(row: dict[str, Any]) -> dict[str, Any] | None:
        return row if (int(row["slice"][-5]) == 0) == (row["reader"] == "A") else None

    result = agree(*changed(tmp_path, apart, readers=2))
    assert "no two readers graded the same slice: no agreement among readers" in result.notes
    assert "0 of 36 slices were graded by all readers; ICC uses only these" in result.notes
    assert np.isnan(result.among["kappa"]["value"]) and "icc" not in result.among
    assert np.isfinite(result.score["plcc"]["value"])


def test_a_single_reader_and_a_reader_of_one_grade(tmp_path: Path) -> None:
    alone = agree(*changed(tmp_path, lambda row: row, readers=1))
    assert "a single reader: no agreement among readers" in alone.notes
    assert (alone.among, alone.reader) == ({}, {})
    text = printed(alone, 80)
    assert "Readers with each other" not in text and "a reader" not in text.replace("reader:", "")
    equal = agree(
        *changed(tmp_path, lambda row: row | {"grade": 2} if row["reader"] == "B" else row)
    )
    assert "B gave every slice 2" in equal.notes


def printed(result: Any, width: int) -> str:
    file = io.StringIO()
    print_agreement(result, Console(file=file, width=width))
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 140])
def test_the_table_fits_and_keeps_the_values(width: int, files: tuple[Path, Path]) -> None:
    result = agree(*files)
    text = printed(result, width)
    assert all(len(line) <= width for line in text.splitlines() if "│" in line)
    assert f"{result.score['srocc']['value']:.2f}" in text
    assert f"{result.among['icc']['value']:.2f}" in text
    assert text.rstrip().endswith(RESEARCH_USE)


def test_json_has_everything(files: tuple[Path, Path], tmp_path: Path) -> None:
    scores = write_json(tmp_path / "s.json", site(patients=24)[1], weights="ab12")
    document = json.loads(run("--labels", files[0], "--scores", scores, "--json").stdout)
    assert (document["slices"], document["clusters"]) == (72, 24)
    assert document["intervals_over"] == "patients"
    assert document["weights_sha256"] == "ab12" and document["research_use"] == RESEARCH_USE
    assert set(document["among_readers"]) == {"kappa", "icc", "alpha"}
    assert set(document["score_with_readers"]) == {"plcc", "srocc", "krocc", "mae", "kappa"}
    assert len(document["pairs"]) == 6


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_names_are_text(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"reader": f"<script>{row['reader']}"}

    labels, scores = changed(tmp_path, change)
    run("--labels", labels, "--scores", scores, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and "<script" not in page and "{{" not in page
    assert page.count("<figure>") == 4 and RESEARCH_USE in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<circle class=dot") == 2 * 36


def test_wide_form_gives_the_same(files: tuple[Path, Path], tmp_path: Path) -> None:
    wide = write_grades(tmp_path / "wide.csv", widened(site(patients=24)[0]))
    assert agree(wide, files[1]).to_dict() == agree(*files).to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slice,A\nP00/IM0000.dcm,5\n", "the grade 5 is not on the scale .* site's --scale"),
        ("slice,A,B\nP00/IM0000.dcm,3,3\nP00/IM0001.dcm,3,3\n", "all 4 grades are 3"),
        ("slice,A\nother,3\nmore,2\n", "none of 2 slices, such as other, is among the 72"),
    ],
    ids=["scale", "equal", "names"],
)
def test_bad_input_is_one_line_and_writes_nothing(
    text: str, message: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.csv").write_text(text)
    page = tmp_path / "page.html"
    with pytest.raises(InputError, match=message) as caught:
        run("--labels", tmp_path / "bad.csv", "--scores", files[1], "--html", page)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert not page.exists() and sorted(p.name for p in tmp_path.iterdir()) == [
        *("bad.csv", "scores.csv", "site.csv")
    ]


def test_a_page_on_standard_output_takes_the_place_of_the_table(
    files: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    table = run("--labels", files[0], "--scores", files[1], "--html", "-").stdout
    page = capfd.readouterr().out
    assert table == "" and page.startswith("<!") and page.rstrip().endswith("</html>")


@pytest.mark.parametrize("long", [True, False], ids=["long", "wide"])
@pytest.mark.parametrize("write", [write_csv, write_json, write_parquet])
def test_files_in_each_others_place_are_named(write: Any, long: bool, tmp_path: Path) -> None:
    rows, scores = site(patients=24)
    rows = [{**row, "grade": int(row["grade"]) + 1} for row in rows]  # on a scale that is not given
    graded = write_grades(tmp_path / "site.csv", rows if long else widened(rows))
    scored = write(tmp_path / "scores", scores)
    with pytest.raises(InputError) as caught:
        run("--labels", scored, "--scores", graded)
    assert str(caught.value) == (
        f"{scored} is a file of scores, and {graded} has grades; exchange --labels and --scores"
    )
    with pytest.raises(InputError, match="is not a file of scores"):
        run("--labels", graded, "--scores", graded, "--scale", "1:5")


def test_the_page_is_no_input(files: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="is also an input"):
        run("--labels", files[0], "--scores", files[1], "--html", files[0])
