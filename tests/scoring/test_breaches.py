"""Series that exceed a limit: in `summarize` and `score`, as text, JSON and exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.dicom_files import write_ct
from support.drawn_regions import abdomen
from support.score_files import row, write_csv, write_json, write_parquet
from support.tiny_bundle import write_bundle
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.errors import ClinReadNetError, InputError, LimitExceeded
from clinreadnet.scoring.breaches import Place, SeriesLimits, places
from clinreadnet.scoring.protocol_limits import read_protocol_limits
from clinreadnet.scoring.score_file import read_scores

LIMITS = """
[default]
least_mean_score = 2.5
least_score = 1.0
most_noise_hu = 15.0
most_ssde_mgy = 18.0
most_novel_share = 0.2

[protocol."Liver*"]
most_noise_hu = 30.0
"""


def run(*arguments: object) -> tuple[int, str, str]:
    """Return exit status, standard output, and the error that ended the command."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if isinstance(result.exception, ClinReadNetError):
        return result.exception.exit_code, result.stdout, str(result.exception)
    assert result.exit_code == 0, result.exception
    return 0, result.stdout, ""


def slices(series: str, count: int = 4, **values: Any) -> list[dict[str, Any]]:
    """Return slices within all limits, except for ``values``: one for all, or a list."""
    rows = []
    for index in range(count):
        own = {n: v[index] if isinstance(v, list) else v for n, v in values.items()}
        figures = {"noise_hu": 12.0, "ssde_mgy": 9.0}
        place = {"position": 2.5 * index, "path": f"/a/{series}-{index}.dcm"}
        rows.append(row(series=series, **(figures | place | {"score": 3.0} | own)))
    return rows


@pytest.fixture
def limits(tmp_path: Path) -> Path:
    path = tmp_path / "limits.toml"
    path.write_text(LIMITS)
    return path


@pytest.mark.parametrize("write", [write_csv, write_parquet, write_json])
def test_each_breach_names_series_value_limit_and_slices(
    tmp_path: Path, limits: Path, write: Any
) -> None:
    rows = [
        *slices("within"),
        *slices("mean", score=[2.0, 2.6, 2.0, 2.6]),
        *slices("lowest", score=[4.0, 0.5, 4.0, 4.0]),
        *slices("noise", noise_hu=[10.0, 10.0, 20.0, 30.0]),
        *slices("dose", ssde_mgy=20.0),
        *slices("novel", in_domain=[True, True, True, False]),
        *slices("liver", noise_hu=25.0, protocol="LIVER 2 phases"),
    ]
    path = write(tmp_path / "scores", rows)
    status, output, error = run("summarize", path, "--limits", limits)
    assert status == 4
    assert [line for line in output.splitlines() if line.startswith("Limit")] == [
        "Limit exceeded: mean: mean score 2.30 is below 2.50: 2 slices at 0.0, 5.0 mm",
        "Limit exceeded: lowest: lowest score 0.50 is below 1.00: 1 slice at 2.5 mm",
        "Limit exceeded: noise: mean noise 17.5 HU is above 15.0 HU: 2 slices at 5.0, 7.5 mm",
        "Limit exceeded: dose: mean SSDE 20.0 mGy is above 18.0 mGy: all 4 slices",
        "Limit exceeded: novel: share of novel slices 25.0 % is above 20.0 %: 1 slice at 7.5 mm",
    ]
    assert error == (
        f"{limits}: 5 of 7 series exceed a limit: mean score, lowest score, mean noise, mean SSDE, "
        "share of novel slices"
    )
    status, output, _ = run("summarize", path, "--limits", limits, "--json")
    outcome = json.loads(output)["limits"]
    assert status == 4 and (outcome["file"], outcome["series"]) == (str(limits), 7)
    assert [breach["series"] for breach in outcome["breaches"]] == [
        *("mean", "lowest", "noise", "dose", "novel")
    ]
    assert outcome["breaches"][1] == {
        "series": "lowest",
        "protocol": "Abdomen",
        "limit": "least_score",
        "value": 0.5,
        "bound": 1.0,
        "slices": [
            {"position": 2.5, "path": "/a/lowest-1.dcm", "frame": None, "sop_instance_uid": ""}
        ],
    }


def test_within_its_limits_a_site_gets_one_line_and_status_0(tmp_path: Path, limits: Path) -> None:
    path = write_csv(tmp_path / "scores.csv", slices("a") + slices("b"))
    status, output, _ = run("summarize", path, "--limits", limits)
    assert status == 0 and f"No limit of {limits} is exceeded" in output
    assert json.loads(run("summarize", path, "--json")[1])["limits"] is None


def test_unknown_values_are_reported_and_do_not_pass(tmp_path: Path, limits: Path) -> None:
    rows = slices("a", ssde_mgy=None, in_domain=None) + slices("b", in_domain=False)
    status, output, _ = run(
        "summarize", write_csv(tmp_path / "s.csv", rows), "--limits", limits, "--json"
    )
    outcome = json.loads(output)["limits"]
    assert status == 4 and [breach["series"] for breach in outcome["breaches"]] == ["b"]
    assert outcome["unchecked"] == {
        "least_mean_score": 1,
        "least_score": 1,
        "most_ssde_mgy": 1,
        "most_novel_share": 1,
    }
    _, output, _ = run("summarize", tmp_path / "s.csv", "--limits", limits)
    assert "Limit not checked: mean SSDE of 1 of 2 series, where it is not known" in output


def test_noise_counts_all_slices_and_scores_those_that_are_not_novel(
    tmp_path: Path, limits: Path
) -> None:
    path = write_csv(
        tmp_path / "scores.csv",
        slices(
            "a", 10, in_domain=[False] + [True] * 9, score=[0.0] + [3.0] * 9, noise_hu=[99.0] * 10
        ),
    )
    series = SeriesLimits(read_protocol_limits(limits))
    for stored in read_scores(path, identify=True)[0]:
        assert stored.score is not None
        series.add(stored, stored.score)
    (breach,) = series.report().breaches
    assert (breach.limit.key, breach.value, len(breach.slices)) == ("most_noise_hu", 99.0, 10)


def test_slices_of_two_protocols_have_the_limits_of_each(tmp_path: Path, limits: Path) -> None:
    rows = slices("a", protocol=["Liver", "Liver", "Abdomen", "Abdomen"], noise_hu=25.0)
    path = write_csv(tmp_path / "scores.csv", rows)
    outcome = json.loads(run("summarize", path, "--limits", limits, "--json")[1])["limits"]
    (breach,) = outcome["breaches"]
    assert (breach["protocol"], len(breach["slices"])) == ("Abdomen", 2)


@pytest.mark.parametrize("write", [write_csv, write_parquet, write_json])
def test_scores_without_the_limited_figures_are_refused(
    tmp_path: Path, limits: Path, write: Any
) -> None:
    path = write(tmp_path / "scores", [row(), row(series="b")])
    status, _, error = run("summarize", path, "--limits", limits)
    assert status == 2
    assert error == (
        f"{path}: has no noise_hu and ssde_mgy; score the slices with `clinreadnet score "
        "--figures`, or remove the limits on them"
    )
    limits.write_text("[default]\nleast_score = 1")
    assert run("summarize", path, "--limits", limits)[0] == 0


def test_a_position_that_is_not_finite_is_refused(tmp_path: Path, limits: Path) -> None:
    path = write_csv(tmp_path / "scores.csv", slices("a", position=float("nan")))
    status, _, error = run("summarize", path, "--limits", limits)
    assert status == 2 and error.endswith("row 1: position is nan; expected a finite number")


def test_a_line_names_five_slices_by_position_or_else_by_file() -> None:
    at = [Place(float(index), f"/a/{index}.dcm", None, "") for index in range(7)]
    assert places(at[:6], 7) == "6 slices at 0.0, 1.0, 2.0, 3.0, 4.0 mm and 1 more"
    assert places(at, 7) == "all 7 slices"
    assert places(at[:1], 1) == "1 slice at 0.0 mm"
    nowhere = [Place(None, "/a/stack\n.npy", index, "") for index in range(2)]
    assert places(nowhere, 3) == "2 slices (stack\\n.npy[0], stack\\n.npy[1])"


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    for index in range(2):
        rng = np.random.default_rng(index)
        hu = np.rint(abdomen() + rng.normal(0, 12 + 20 * index, (512, 512))).astype(np.int16)
        place = [0, 0, 5.0 * index]
        write_ct(folder / f"{index}.dcm", hu, ImagePositionPatient=place, ProtocolName="Abdomen")
    return folder


def test_score_writes_the_scores_and_ends_with_status_4(
    tmp_path: Path, series: Path, limits: Path
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    common = ("score", series, "--bundle", bundle, "--limits", limits)
    limits.write_text("[protocol.Abdomen]\nmost_noise_hu = 15")
    status, _, error = run(*common)
    assert status == 2 and "limits noise_hu, which only --figures measures" in error
    wanted = ["--csv", tmp_path / "scores.csv", "--html", tmp_path / "page.html"]
    status, output, error = run(*common, "--figures", *wanted)
    assert status == 4 and "1 of 1 series exceeds a limit: mean noise" in error
    (line,) = [line for line in output.splitlines() if line.startswith("Limit exceeded")]
    assert "mean noise" in line and line.endswith("above 15.0 HU: 1 slice at 5.0 mm")
    assert json.dumps(line) in (tmp_path / "page.html").read_text()
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 3
    status, output, _ = run(*common, "--figures", "--json")
    (breach,) = json.loads(output)["limits"]["breaches"]
    assert status == 4 and breach["slices"][0]["path"] == str(series / "1.dcm")
    limits.write_text("[protocol.Chest]\nmost_noise_hu = 15")
    status, output, _ = run(*common, "--figures")
    assert status == 0 and "No limit" in output


def test_the_limits_are_an_input_that_no_output_replaces(
    tmp_path: Path, series: Path, limits: Path
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    common = ("score", series, "--bundle", bundle, "--figures", "--limits", limits)
    status, _, error = run(*common, "--csv", limits)
    assert status == 2 and str(limits) in error and limits.read_text() == LIMITS


def test_the_error_is_not_a_bad_input() -> None:
    assert LimitExceeded.exit_code == 4
    assert not issubclass(LimitExceeded, InputError)
