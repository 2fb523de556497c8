"""Files of scores: both formats of the commands are read, and other files are refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from support.dicom_files import write_series
from support.score_files import COLUMNS, row, write_csv, write_json, write_parquet
from support.tiny_bundle import write_bundle

from clinreadnet import limits
from clinreadnet.data.slices import find_slices
from clinreadnet.errors import InputError
from clinreadnet.physics import SliceFigures
from clinreadnet.runtime import Session
from clinreadnet.scoring import score_file
from clinreadnet.scoring.run import score_slices
from clinreadnet.scoring.score_file import StoredScore, read_scores
from clinreadnet.scoring.write import write_csv as write_scores


@pytest.fixture(params=["csv", "json", "parquet"])
def write(request: pytest.FixtureRequest) -> Any:
    if request.param == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra ray")
    return {"csv": write_csv, "json": write_json, "parquet": write_parquet}[request.param]


def read(path: Path) -> list[StoredScore]:
    return list(read_scores(path)[0])


def test_a_row_keeps_its_values(write: Any, tmp_path: Path) -> None:
    rows = [row(), row(in_domain=False), row(in_domain=None, protocol=None), row(score=None)]
    stored = read(write(tmp_path / "scores", rows))
    assert [s.in_domain for s in stored] == [True, False, None, True]
    assert [s.score for s in stored] == [2.5, 2.5, 2.5, None]
    first = stored[0].acquisition
    assert (first.ctdi_vol_mgy, first.kernel, first.scanner) == (8.0, "Br40", "Maker One")
    assert (first.protocol, first.acquired, stored[0].series) == ("Abdomen", "2026-01-31", "1.2.3")
    assert stored[2].acquisition.protocol is None


def test_a_site_score_is_read_with_the_name_of_its_map(write: Any, tmp_path: Path) -> None:
    rows = [row(site_score=-1.5, site_map="1 (bad) ... 5 (excellent)"), row(site_score=2.0), row()]
    pairs = [(s.site_score, s.site_map) for s in read(write(tmp_path / "scores", rows))]
    assert pairs == [(-1.5, "1 (bad) ... 5 (excellent)"), (2.0, ""), (None, "")]
    with pytest.raises(InputError, match="site_score is nan; expected a finite number"):
        read(write_csv(tmp_path / "scores", [row(site_score="nan")]))


def test_slices_are_identified_on_request(write: Any, tmp_path: Path) -> None:
    path = write(
        tmp_path / "scores",
        [row(path="a.npy", frame=12), row(path="b.dcm", sop_instance_uid="1.2.840.1")],
    )
    names = [(s.path, s.frame, s.sop_instance_uid) for s in read(path)]
    assert names == [("", None, "")] * 2
    names = [(s.path, s.frame, s.sop_instance_uid) for s in read_scores(path, identify=True)[0]]
    assert names == [("a.npy", 12, ""), ("b.dcm", None, "1.2.840.1")]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"score": "2"}, "row 1: score has a wrong type"),
        ({"score": True}, "row 1: score has a wrong type"),
        ({"score": 10**400}, "row 1: score has a wrong type or is too large"),
        ({"score": 5.0}, "row 1: score is 5.0; expected 0 ... 4"),
        ({"frame": 1.5}, "row 1: frame has a wrong type"),
    ],
    ids=["text", "truth", "large", "range", "frame"],
)
def test_a_value_of_a_wrong_type_in_json_is_refused(
    change: dict[str, Any], error: str, tmp_path: Path
) -> None:
    path = write_json(tmp_path / "scores.json", [row(**change)])
    with pytest.raises(InputError, match=error):
        list(read_scores(path, identify=True)[0])


@pytest.mark.parametrize(
    "text", ["{", '{"slices": 3}', '{"slices": [1]}', '{"rows": []}', '{"slices": [{}]}']
)
def test_other_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(InputError, match="is not what `clinreadnet score --json` prints"):
        read_scores(tmp_path / "scores.json")


def test_it_reads_what_score_writes(tmp_path: Path) -> None:
    write_series(tmp_path / "series", 2, ProtocolName='Abdomen, "low"', CTDIvol=4.5)
    bundle = write_bundle(tmp_path / "bundle")
    with Session(bundle, "onnxruntime-cpu") as session:
        report = score_slices(session, find_slices([tmp_path / "series"]))
    write_scores(report, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert next(csv.reader(file)) == list(COLUMNS)
    stored = read(tmp_path / "scores.csv")
    assert [s.score for s in stored] == [round(s.score, 4) for s in report.slices]
    assert [s.in_domain for s in stored] == [s.in_domain for s in report.slices]
    assert {s.acquisition.protocol for s in stored} == {'Abdomen, "low"'}
    assert {s.acquisition.ctdi_vol_mgy for s in stored} == {4.5}
    assert [s.series for s in stored] == [s.series for s in report.slices]


def test_it_reads_the_columns_that_score_archive_writes() -> None:
    pytest.importorskip("ray", reason="ray is not installed: the extra ray")
    from clinreadnet.scoring.archive import SCHEMA

    assert {*COLUMNS, "error"} == set(SCHEMA.names)
    assert set(score_file.COLUMNS) <= set(SCHEMA.names)


def test_the_weights_are_those_of_the_session(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra ray")
    assert read_scores(write_parquet(tmp_path / "a", [row()], weights="ab12"))[1] == "ab12"
    assert read_scores(write_parquet(tmp_path / "b", [row()]))[1] is None
    assert read_scores(write_json(tmp_path / "d", [row()], weights="ab12"))[1] == "ab12"
    assert read_scores(write_csv(tmp_path / "c", [row()]))[1] is None


def test_a_file_that_a_spreadsheet_saved_is_read(tmp_path: Path) -> None:
    text = write_csv(tmp_path / "a.csv", [row()]).read_text()
    (tmp_path / "b.csv").write_text(text.replace(",true,", ",TRUE,"), encoding="utf-8-sig")
    assert read(tmp_path / "b.csv") == read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": 4.5}, r"row 2: score is 4\.5; expected 0 \.\.\. 4"),
        ({"score": float("nan")}, r"row 2: score is nan; expected 0 \.\.\. 4"),
        ({"ctdi_vol_mgy": -1.0}, r"row 2: ctdi_vol_mgy is -1\.0; expected 0 or more"),
        ({"ctdi_vol_mgy": float("inf")}, r"row 2: ctdi_vol_mgy is inf; expected 0 or more"),
        ({"acquired": "31.01.2026"}, r"row 2: acquired is 31\.01\.2026; expected a date such as"),
        ({"acquired": "2026-02-30"}, r"row 2: acquired is 2026-02-30; expected a date such as"),
        ({"series": None}, "row 2: has a score and no series"),
    ],
    ids=["score", "nan", "dose", "inf", "date", "no-such-day", "series"],
)
def test_a_wrong_value_is_refused(
    write: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "scores", [row(), row(**change)]))


def test_figures_are_read_where_a_file_has_them(write: Any, tmp_path: Path) -> None:
    measured = row(noise_hu=12.5, water_diameter_cm=29.0, ssde_mgy=None)
    (stored,) = read(write(tmp_path / "scores", [measured]))
    assert stored.figures == SliceFigures(noise_hu=12.5, water_diameter_cm=29.0)
    (stored,) = read(write(tmp_path / "scores", [row()]))
    assert stored.figures == SliceFigures()
    with pytest.raises(InputError, match=r"row 1: noise_hu is -1\.0; expected 0 or more"):
        read(write(tmp_path / "scores", [row(noise_hu=-1.0)]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a,b\n1,2\n", "is not a file of scores; give a file of `clinreadnet score-archive`"),
        (b"\xff\xfe\x00", "is neither Parquet nor CSV in UTF-8"),
        (b'"a', "line 1: is not CSV"),
        (b"a" * 200_000, "a line has more than 65536 characters"),
        ((",".join([*COLUMNS, "score"]) + "\n").encode(), "lacks, or has twice, score;"),
        (
            (",".join(COLUMNS) + "\n1,2\n").encode(),
            f"row 1: has 2 values for {len(COLUMNS)} columns",
        ),
    ],
    ids=["empty", "columns", "binary", "quote", "long", "twice", "short"],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "scores.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "scores.csv")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("score", "2,5", "score is not a number: 2,5"), ("in_domain", "yes", "in_domain is not true")],
)
def test_a_text_that_is_not_its_columns_is_refused(
    tmp_path: Path, column: str, value: str, message: str
) -> None:
    with pytest.raises(InputError, match=f"row 1: {message}"):
        read(write_csv(tmp_path / "scores.csv", [row(**{column: value})]))


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra ray")
    from pyarrow import parquet

    path = write_parquet(tmp_path / "scores", [row()])
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(InputError, match="is not a Parquet file that can be read"):
        read(path)
    table = pyarrow.Table.from_pylist([row(score="2.5")])
    parquet.write_table(table, path)
    with pytest.raises(InputError, match="column score holds string; give a file of"):
        read(path)
    parquet.write_table(table.drop_columns(["protocol"]), path)
    with pytest.raises(InputError, match="lacks, or has twice, protocol"):
        read(path)


def test_the_limits_hold(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "scores", [row()] * 3)
    monkeypatch.setattr(limits, "SCORES_ROWS", 3)
    assert len(read(path)) == 3
    monkeypatch.setattr(limits, "SCORES_ROWS", 2)
    with pytest.raises(InputError, match="rows"):
        read(path)
    monkeypatch.setattr(limits, "SCORES_FILE", path.stat().st_size - 1)
    with pytest.raises(InputError, match=r"bytes; at most \d+ are read; split the file"):
        read_scores(path)
