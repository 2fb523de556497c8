"""Files of grades: both forms are read, slices are matched, and other files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.score_files import row, write_csv, write_json
from support.site_readers import site, widened, write_grades

from clinreadnet import limits
from clinreadnet.errors import InputError
from clinreadnet.readers.labels import Labels, Scale, match, parse_scale, read_labels

GRADES, SCORES = site(patients=4)


def written(folder: Path, text: str) -> Path:
    (folder / "site.csv").write_text(text)
    return folder / "site.csv"


def same(a: Labels, b: Labels) -> bool:
    return (a.names, a.readers, a.patients) == (b.names, b.readers, b.patients) and np.array_equal(
        a.grades, b.grades, equal_nan=True
    )


def test_both_forms_are_the_same_labels(tmp_path: Path) -> None:
    missing = [row for row in GRADES if (row["slice"][-5], row["reader"]) != ("1", "B")]
    long = read_labels(write_grades(tmp_path / "long.csv", missing))
    assert long.readers == ("A", "B", "C") and len(long.names) == 12
    assert np.isnan(long.grades[:, 1]).sum() == 4 and long.patients[0] == "P00"
    assert same(long, read_labels(write_grades(tmp_path / "wide.csv", widened(missing))))
    for separator in ";\t":
        assert same(long, read_labels(write_grades(tmp_path / "a", missing, separator)))


def test_a_table_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    rows = ["a.npy;0;A;2,5;31,5", "", "a.npy;1;A; 3 ;28", "a.npy;2;A;NA;28"]
    text = "\n".join(["\ufeffPath;Frame;READER;Grade;Size", *rows])
    labels = read_labels(written(tmp_path, text))
    assert labels.names == ("a.npy[0]", "a.npy[1]")
    assert labels.grades.tolist() == [[2.5], [3.0]]
    assert labels.facts["size"] == ("31.5", "28")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows of grades"),
        ("slice,reader,grade\n", "has no rows of grades"),
        ("image,reader,grade\na,A,1\n", "no column names the slices"),
        ("slice,grade\na,1\n", "give both columns reader and grade"),
        (
            "slice,reader,score\na,A,1\n",
            "no column grade: its columns are slice, reader, score; give both columns reader and "
            "grade, a row for each grade, or a column for each reader, a row for each slice",
        ),
        ("slice,patient\na,1\n", "no column has grades"),
        ("slice,A,a\nx,1,2\n", "has several columns 'A'"),
        ("slice,A,\nx,1,2\n", "has several columns ''"),
        ("slice,reader,grade\na,A\n", "row 1: has 2 values for 3 columns"),
        ("slice,reader,grade\n,A,1\n", "row 1: names no slice"),
        ("slice,reader,grade\na,,1\n", "row 1: has no reader"),
        ("slice,A,comment\na,1,blurred\n", "row 1: comment: the grade is 'blurred'"),
        ("slice,reader,grade\na,A,5\n", r"A: the grade 5 is not on the scale 0 \(bad\) ... 4"),
        ("slice,reader,grade\na,A,-1\n", "the grade -1 is not on the scale"),
        ("slice,reader,grade\na,A,inf\n", "the grade inf is not on the scale"),
        ("slice,reader,grade\na,A,1\na,A,2\n", "row 2: A graded a twice"),
        ("slice,A\na,1\na,2\n", "row 2: slice a is in the file twice"),
        ("slice,reader,grade,patient\na,A,1,P\na,B,2,Q\n", "patient of a is Q, and P in another"),
        ("slice,reader,grade\na,A,\n", "has no grade"),
        ("slice,A,B\na,1,\nb,2,\n", "B graded no slice"),
        ("slice,A,B\na,3,3\nb,3,\n", "all 3 grades are 3, so agreement is not defined"),
        ('slice,A\n"a,1\n', "has no rows of grades|has 1 value for"),
    ],
)
def test_a_bad_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_labels(written(tmp_path, text))


def test_a_file_of_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("slice,reader,grade\na,Müller,1\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not CSV in UTF-8; save it as such"):
        read_labels(tmp_path / "a")


@pytest.mark.parametrize("name", ["GRADED_SLICES", "READERS"])
def test_more_than_the_limit_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, name, 1)
    with pytest.raises(InputError, match="slices and . readers; at most"):
        read_labels(written(tmp_path, "slice,A,B\na,1,2\nb,2,3\n"))


@pytest.mark.parametrize("text", ["", "4", "1:1", "1:5:9", "a:b", "nan:3", "0:inf"])
def test_a_bad_scale_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="give the worst and the best grade, such as 1:5"):
        parse_scale(text)


def test_a_score_is_put_on_the_scale() -> None:
    assert parse_scale("1:5") == Scale(1, 5) and Scale(1, 5).of_score(2.0) == 3.0
    assert Scale(5, 1).of_score(4.0) == 1.0 and Scale(5, 1).direction == -1
    assert str(Scale(5, 1)) == "5 (bad) ... 1 (excellent)"


def labelled(names: list[str]) -> Labels:
    grades = np.arange(float(len(names)))[:, None] % 5
    nothing = (None,) * len(names)
    facts = {"scanner": ("own", *nothing[1:]), "protocol": nothing, "size": nothing}
    return Labels(tuple(names), ("A",), grades, Scale(), nothing, facts)


@pytest.mark.parametrize("write", [write_csv, write_json], ids=["csv", "json"])
def test_slices_are_found_by_uid_or_by_the_end_of_their_path(write: Any, tmp_path: Path) -> None:
    rows = [
        row(path="/a/P1/IM1.dcm", score=1.0, sop_instance_uid="1.2.3"),
        row(path="/a/P2/IM1.dcm", score=2.0, sop_instance_uid="1.2.4", device="ab12"),
        row(path="C:\\a\\stack.npy", score=3.0, frame=7, sop_instance_uid=None),
        row(path="/a/P3/IM9.dcm", score=4.0, in_domain=False),
        row(path="/a/P3/IM8.dcm", score=None),
    ]
    scores = write(tmp_path / "scores", rows)
    names = ["1.2.3", "P2/IM1.dcm", "stack.npy[7]", "IM9.dcm", "IM8.dcm", "other"]
    reading = match(labelled(names), scores, "site.csv")
    assert reading.labels.names == ("1.2.3", "P2/IM1.dcm", "stack.npy[7]")
    assert reading.score.tolist() == [1.0, 2.0, 3.0]
    assert (reading.unmatched, reading.novel) == (("IM8.dcm", "other"), 1)
    assert reading.labels.facts["scanner"] == ("own", "Maker One (ab12)", "Maker One")
    for name in ("/a/P2/IM1.dcm", "a\\P2\\IM1.dcm", "./P2/IM1.dcm"):
        assert match(labelled(["1.2.3", name]), scores, "site.csv").score.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["IM1.dcm", "P2/IM1.dcm"], "IM1.dcm fits 2 slices of .*give more of the path, or the SOP"),
        (["x", "y", "z"], r"none of 3 slices, such as x, is among the 2 .* as /a/P1/IM1.dcm \(1.2"),
        (["1.2.3", "z"], "1 of its 2 slices can be compared .*1 without a score, 0 marked"),
    ],
    ids=["several", "none", "single"],
)
def test_names_that_do_not_match_are_refused(
    names: list[str], message: str, tmp_path: Path
) -> None:
    rows = [
        row(path="/a/P1/IM1.dcm", sop_instance_uid="1.2.3"),
        row(path="/a/P2/IM1.dcm", sop_instance_uid="1.2.4"),
    ]
    scores = write_csv(tmp_path / "s.csv", rows)
    with pytest.raises(InputError, match=f"site.csv: {message}"):
        match(labelled(names), scores, "site.csv")


def test_the_size_is_that_of_the_figures(tmp_path: Path) -> None:
    rows = [row(path="a", water_diameter_cm=28.5), row(path="b", water_diameter_cm=None)]
    scores = write_csv(tmp_path / "s.csv", rows)
    assert match(labelled(["a", "b"]), scores, "site.csv").labels.facts["size"] == ("28.5", None)


def test_a_slice_with_two_names_is_refused(tmp_path: Path) -> None:
    """Readers whose lists name slices in two ways."""
    scores = write_csv(tmp_path / "s.csv", [row(path="/a/IM1.dcm", sop_instance_uid="1.2.3")])
    with pytest.raises(InputError, match="site.csv: 1.2.3 and IM1.dcm are one slice of"):
        match(labelled(["1.2.3", "IM1.dcm"]), scores, "site.csv")


def test_a_slice_that_was_scored_twice_is_refused(tmp_path: Path) -> None:
    scores = write_csv(tmp_path / "s.csv", [*SCORES, SCORES[0]])
    labels = read_labels(write_grades(tmp_path / "site.csv", GRADES))
    with pytest.raises(InputError, match="P00/IM0000.dcm fits 2 slices"):
        match(labels, scores, "site.csv")
