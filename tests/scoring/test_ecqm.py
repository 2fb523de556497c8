"""Size-adjusted dose and noise of each series by category: `summarize --ecqm`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.score_files import row, write_csv
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.errors import ClinReadNetError, InputError
from clinreadnet.scoring.protocol_limits import read_protocol_limits
from clinreadnet.scoring.summary import summarize
from clinreadnet.scoring.summary_table import print_summary

THRESHOLDS = """
[protocol."Abdomen*"]
category = "Abdomen, routine dose"
most_noise_hu = 15.0
most_ssde_mgy = 18.0

[protocol."Chest"]
most_noise_hu = 1.0
"""


@pytest.fixture
def limits(tmp_path: Path) -> Path:
    path = tmp_path / "ecqm.toml"
    path.write_text(THRESHOLDS)
    return path


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Write two slices of each series: noise in HU, SSDE in mGy."""
    rows: list[dict[str, Any]] = []
    for series, noise, dose, protocol in (
        ("in", (10.0, 16.0), (9.0, 9.0), "Abdomen"),
        ("noisy", (14.0, 18.0), (9.0, 9.0), "Abdomen"),
        ("dose", (10.0, 10.0), (17.0, 19.5), "Abdomen"),
        ("noisy without dose", (14.0, 18.0), (None, None), "Abdomen"),
        ("without dose", (10.0, 10.0), (None, None), "Abdomen"),
        ("chest", (10.0, 10.0), (99.0, 99.0), "Chest"),
    ):
        rows += [
            row(
                series=series,
                noise_hu=noise[index],
                ssde_mgy=dose[index],
                protocol=protocol,
                position=-2.5 * index,
                path=f"/a/{series}{index}",
            )
            for index in range(2)
        ]
    return write_csv(tmp_path / "scores.csv", rows)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["summarize", *map(str, arguments)])
    if isinstance(result.exception, ClinReadNetError):
        return result.exception.exit_code, result.stdout
    assert result.exit_code == 0, result.exception
    return 0, result.stdout


def test_a_series_is_out_of_range_in_dose_or_noise(scores: Path, limits: Path) -> None:
    status, output = run(scores, "--limits", limits, "--ecqm", "--json")
    table = json.loads(output)["ecqm"]
    assert status == 4 and (table["in"], table["out"], table["not_known"]) == (1, 3, 2)
    assert [(entry["series"], entry["in_range"]) for entry in table["series"]] == [
        *(("noisy", False), ("dose", False), ("noisy without dose", False)),
        *(("without dose", None), ("chest", None), ("in", True)),
    ]
    by_series = {entry["series"]: entry for entry in table["series"]}
    assert by_series["dose"] == {
        "series": "dose",
        "protocol": "Abdomen",
        "category": "Abdomen, routine dose",
        "ssde_mgy": 18.25,
        "most_ssde_mgy": 18.0,
        "noise_hu": 10.0,
        "most_noise_hu": 15.0,
        "in_range": False,
        "slices": [{"position": -2.5, "path": "/a/dose1", "frame": None, "sop_instance_uid": ""}],
    }
    assert [entry["position"] for entry in by_series["in"]["slices"]] == [-2.5]
    chest = by_series["chest"]
    assert (chest["category"], chest["most_noise_hu"], chest["slices"]) == (None, None, [])
    assert json.loads(run(scores, "--limits", limits, "--json")[1])["ecqm"] is None


@pytest.mark.parametrize("width", [40, 80, 140])
def test_the_table_fits_and_says_what_it_is(scores: Path, limits: Path, width: int) -> None:
    summary = summarize([scores], limits=read_protocol_limits(limits), ecqm=True)
    console = Console(file=io.StringIO(), width=width)
    print_summary(summary, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    rows = [line for line in shown.splitlines() if line.startswith(("│", "┃", "┏", "└"))]
    assert rows and all(len(line) <= width for line in rows)
    assert ("1 slice at -2.5 mm" in "".join(rows)) is (width == 140)
    assert "3 of 4 series are out of range; of 2 more, category, dose or noise is not" in shown
    assert "assign them by clinical indication" in shown


def test_a_value_that_is_nearly_its_limit_has_more_digits(tmp_path: Path, limits: Path) -> None:
    scores = write_csv(tmp_path / "s.csv", [row(noise_hu=15.003, ssde_mgy=9.0)])
    shown = run(scores, "--limits", limits, "--ecqm")[1]
    assert "mean noise 15.003 HU is above 15.000 HU" in shown and "│ 15.003 │" in shown


def test_it_needs_limits_with_a_category(tmp_path: Path, scores: Path) -> None:
    with pytest.raises(InputError, match="`ecqm` needs `limits`"):
        summarize([scores], ecqm=True)
    (tmp_path / "l.toml").write_text("[default]\nmost_noise_hu = 15\nmost_ssde_mgy = 18")
    with pytest.raises(InputError, match="l.toml: states no category"):
        summarize([scores], limits=read_protocol_limits(tmp_path / "l.toml"), ecqm=True)
    result = CliRunner().invoke(app, ["summarize", str(scores), "--ecqm"])
    assert str(result.exception).startswith("--ecqm needs --limits: a file with a category")
