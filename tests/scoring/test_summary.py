"""`clinreadnet summarize`: groups, intervals, dose, drift, and excluded slices."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.command import run_command
from support.score_files import row, write_csv, write_parquet

from clinreadnet.errors import InputError
from clinreadnet.scoring.estimate import FEWEST, estimate, student_quantile
from clinreadnet.scoring.summary import GROUPINGS, summarize
from clinreadnet.scoring.summary_table import print_summary
from clinreadnet.spec import RESEARCH_USE

run = partial(run_command, "summarize")


def days(count: int, score: Any, **values: Any) -> list[dict[str, Any]]:
    """Return a series of one slice for each day; ``score`` is a function of the day's number."""
    return [
        row(
            series=f"{values.get('scanner', '')}/{day}",
            score=score(day),
            acquired=f"2026-{1 + day // 28:02}-{1 + day % 28:02}",
            **values,
        )
        for day in range(count)
    ]


def refused(*arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        run(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("degrees", "quantile"),  # tables of Student's t, two-sided, 95 %
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (120, 1.9799)],
)
def test_students_quantile_is_that_of_the_tables(degrees: int, quantile: float) -> None:
    assert student_quantile(degrees) == pytest.approx(quantile, abs=5e-5)
    assert student_quantile(10**6) == pytest.approx(1.95996, rel=1.3e-3)


def test_an_estimate_is_that_worked_by_hand() -> None:
    values = [1.0, 2.0, 3.0, 2.0, 2.0]  # error sqrt(0.5 / 5), t = 2.7764, so a reach of 0.8780
    result = estimate(values, 4.0)  # of the logit log(m / (4 - m)), whose derivative is 1 at 2
    assert result is not None and result.low is not None and result.high is not None
    assert (result.n, result.mean, result.min, result.max) == (5, 2.0, 1.0, 3.0)
    assert result.high == pytest.approx(4 / (1 + math.exp(-0.8780)), abs=1e-4)
    assert result.low == pytest.approx(4 / (1 + math.exp(0.8780)), abs=1e-4)
    dose = estimate(values)  # of the logarithm, whose derivative is 1 / 2
    assert dose is not None and dose.low is not None and dose.high is not None
    assert dose.high == pytest.approx(2 * math.exp(0.4390), abs=1e-4)
    assert dose.low == pytest.approx(2 * math.exp(-0.4390), abs=1e-4)
    assert estimate([]) is None


def test_figures_are_means_of_the_series_that_have_them(tmp_path: Path) -> None:
    rows = [row(series="a", noise_hu=10.0, ssde_mgy=8.0)] * 3
    rows += [row(series="b", noise_hu=20.0, water_diameter_cm=30.0)]
    rows += [row(series="b", noise_hu=99.0, in_domain=False)]
    path = write_csv(tmp_path / "scores.csv", rows)
    (group,) = json.loads(run(path, "--json").stdout)["groups"]
    means = {name: group[name]["mean"] for name in ("noise_hu", "water_diameter_cm", "ssde_mgy")}
    assert means == {"noise_hu": 15.0, "water_diameter_cm": 30.0, "ssde_mgy": 8.0}
    assert group["ssde_mgy"]["n"] == 1
    written = io.StringIO()
    print_summary(summarize([path]), Console(width=140, file=written))
    assert all(name in written.getvalue() for name in ("noise (HU)", "Dw (cm)", "SSDE (mGy)"))
    plain = write_csv(tmp_path / "plain.csv", [row()])
    assert json.loads(run(plain, "--json").stdout)["groups"][0]["noise_hu"] is None
    assert "noise" not in run(plain).stdout


def test_site_scores_stand_beside_the_scores_and_name_their_map(tmp_path: Path) -> None:
    name = "1 (bad) ... 5 (excellent), fitted 2026-01-31T12:00:00Z"
    rows = [row(series="a", score=2.0, site_score=3.0, site_map=name)] * 3
    rows += [row(series="b", score=3.0, site_score=4.5, site_map=name)]
    rows += [row(series="b", score=1.0, site_score=1.0, site_map=name, in_domain=False)]
    rows += [row(series="c", score=1.0)]
    path = write_csv(tmp_path / "scores.csv", rows)
    document = json.loads(run(path, "--json").stdout)
    (group,) = document["groups"]
    assert (group["site_mean"], group["quality"]["mean"], document["site_map"]) == (3.75, 2.0, name)
    shown = run(path).stdout
    assert " site " in shown and "3.75" in shown and "2.00" in shown
    assert f"Site scores: means of the grades of the site's readers ({name})" in shown
    unnamed = write_csv(tmp_path / "unnamed.csv", [row(series="d", site_score=2.0)])
    assert "(scale and map not stated)" in run(unnamed).stdout
    for files in ([path, unnamed], [unnamed, path]):
        with pytest.raises(InputError, match="site scores are of several site maps"):
            summarize(files)
    plain = write_csv(tmp_path / "plain.csv", [row()])
    assert "site" not in run(plain).stdout
    assert json.loads(run(plain, "--json").stdout)["groups"][0]["site_mean"] is None


@pytest.mark.parametrize("n", range(1, 7))
def test_there_is_an_interval_from_the_stated_number_of_series_on(n: int) -> None:
    result = estimate([1.5] * n, 4.0)
    assert result is not None and result.mean == 1.5
    assert (result.low is not None) == (result.high is not None) == (n >= FEWEST)


@pytest.mark.parametrize(
    "values",
    [[4.0] * 5, [0.0] * 5, [0, 0, 0, 0, 4], [4, 4, 4, 4, 0], [0, 4, 0, 4, 0], [0, 0, 0, 0, 1e-40]],
    ids=["4", "0", "one-4", "one-0", "both", "tiny"],
)
def test_an_interval_stays_inside_the_grades(values: list[float]) -> None:
    result = estimate(values, 4.0)
    assert result is not None and result.low is not None and result.high is not None
    assert 0 <= result.low <= result.mean <= result.high <= 4
    assert (result.low < result.high) is (min(values) < max(values))


@pytest.mark.parametrize("n", [5, 10, 30])
@pytest.mark.parametrize(
    ("a", "b"), [(2, 1), (30, 3), (1, 4), (9, 0.6)], ids=["wide", "good", "bad", "end"]
)
def test_intervals_cover_the_mean_nearly_as_often_as_they_claim(a: int, b: float, n: int) -> None:
    draws = 4 * np.random.default_rng(n).beta(a, b, (3000, n))
    drawn = [estimate(row.tolist(), 4.0) for row in draws]
    mean = 4 * a / (a + b)
    inside = [e is not None and e.low is not None and e.low <= mean <= (e.high or 0) for e in drawn]
    noise = 3 * math.sqrt(0.95 * 0.05 / 3000)
    assert 0.93 - noise < np.mean(inside) < 0.97 + noise


def test_a_series_counts_once(tmp_path: Path) -> None:
    rows = [row(series="a", score=1.0, ctdi_vol_mgy=4.0)] * 9
    rows += [row(series="b", score=3.0, ctdi_vol_mgy=8.0)]
    (group,) = summarize([write_csv(tmp_path / "s.csv", rows)]).groups
    assert group.quality is not None and group.ctdi_vol_mgy is not None
    assert (group.slices, len(group.series)) == (10, 2)
    assert (group.quality.mean, group.ctdi_vol_mgy.mean) == (2.0, 6.0)


def test_novel_slices_and_slices_without_score_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [row(score=2.0), row(score=0.0, in_domain=False, ctdi_vol_mgy=99.0), row(score=None)]
    rows += [row(series="all novel", protocol="Head", in_domain=False)]
    summary = summarize([write_csv(tmp_path / "s.csv", rows)], ["protocol"])
    abdomen, head = summary.groups
    assert abdomen.quality is not None and abdomen.ctdi_vol_mgy is not None
    assert (abdomen.quality.mean, abdomen.ctdi_vol_mgy.mean, abdomen.novel) == (2.0, 8.0, 1)
    assert (head.key, head.quality, head.novel, head.series) == (("Head",), None, 1, ())
    assert (summary.slices, summary.not_scored, summary.to_dict()["novel"]) == (4, 1, 2)
    shown = run(tmp_path / "s.csv").output
    assert "2 of 4 slices are marked as novel and left out" in shown
    assert "1 of 4 slices has no score" in shown


def test_groups_are_those_of_the_columns(tmp_path: Path) -> None:
    rows = [
        row(series="1", scanner="B", protocol="x"),
        row(series="2", scanner="A", protocol="y"),
        row(series="3", scanner=None, protocol="x"),
    ]
    path = write_csv(tmp_path / "s.csv", rows)
    keys = [group.key for group in summarize([path]).groups]
    assert keys == [("A", "y"), ("B", "x"), (None, "x")]
    assert [g.key for g in summarize([path], ["protocol"]).groups] == [("x",), ("y",)]
    with pytest.raises(InputError, match="by=kvp: group by scanner, protocol, kernel"):
        summarize([path], ["kvp"])
    assert refused(path, "--by", "kvp") == "--by kvp: group by scanner, protocol, kernel"
    assert set(GROUPINGS) < set(row())


def test_drift_of_one_scanner_is_named(tmp_path: Path) -> None:
    good = days(40, lambda day: 2.5 + 0.02 * (-1) ** day, scanner="Steady")
    worse = days(40, lambda day: 2.5 + 0.02 * (-1) ** day - (day >= 30), scanner="Drifting")
    path = write_csv(tmp_path / "s.csv", [*reversed(good), *reversed(worse)])
    drifting, steady = json.loads(run(path, "--by", "scanner", "--json").output)["groups"]
    assert (drifting["scanner"], steady["scanner"]) == ("Drifting", "Steady")
    assert steady["chart"]["outside"] == [] and steady["chart"]["runs"] == []
    dates = [day["date"] for day in drifting["days"]]
    assert dates == sorted(dates) and len(dates) == 40
    assert set(dates[30:]) <= set(drifting["chart"]["outside"])
    assert [dates[30], dates[39]] in drifting["chart"]["runs"]
    assert steady["chart"]["signals"] == []
    assert {"date": dates[30], "rule": 1} in drifting["chart"]["signals"]
    assert {"date": dates[31], "rule": 2} in drifting["chart"]["signals"]
    assert {"date": dates[37], "rule": 4} in drifting["chart"]["signals"]
    shown = run(path, "--by", "scanner").output
    assert "Drifting: 2026-02-04 to 2026-02-12: 2 of 3 days more than 2 standard" in shown
    assert "Drifting: 2026-02-06 to 2026-02-12: 4 of 5 days more than 1 standard dev" in shown
    assert "rule 1 marks 0.27 % of days" in shown
    assert "Drifting: 2026-02-03: 1.52 is below" in shown
    assert "Drifting: 2026-02-03 to 2026-02-12: 10 days in a row below" in shown
    assert "Steady: " not in shown and shown.endswith(f"{RESEARCH_USE}\n")


def test_a_day_is_the_mean_of_its_series(tmp_path: Path) -> None:
    rows = [row(series="1", score=1.0), row(series="2", score=2.0)]
    rows += [row(series="3", score=3.0, acquired="2026-02-01")]
    (group,) = summarize([write_csv(tmp_path / "s.csv", rows)]).groups
    assert [(d.date, d.series, d.score) for d in group.days] == [
        ("2026-01-31", 2, 1.5),
        ("2026-02-01", 1, 3.0),
    ]
    rows += days(8, lambda day: 2.0)
    shown = run(write_csv(tmp_path / "s.csv", rows)).output
    assert "limits from fewer than 20 days are uncertain" in shown


def test_two_scanners_of_one_model_are_two_groups(tmp_path: Path) -> None:
    rows = [row(series=str(n), device=device) for n, device in enumerate(["aa", "bb", "bb", None])]
    rows.append(row(series="5", scanner=None, device="aa"))
    path = write_csv(tmp_path / "s.csv", rows)
    names = ["Maker One", "Maker One (aa)", "Maker One (bb)", "not stated (aa)"]
    groups = summarize([path], ["scanner"]).groups
    assert [(g.name, len(g.series)) for g in groups] == list(zip(names, [1, 1, 2, 1], strict=True))
    (group,) = json.loads(run(path, "--by", "protocol", "--json").output)["groups"]
    assert group["scanners"] == names


@pytest.mark.parametrize(
    ("by", "first", "second", "chart"),
    [
        ("scanner", {"scanner": None}, {"scanner": None}, False),
        ("scanner", {"scanner": None, "device": "aa"}, {"scanner": None, "device": "aa"}, True),
        ("protocol", {"protocol": None}, {"protocol": None}, True),
        ("protocol", {"protocol": None}, {"protocol": None, "device": "aa"}, False),
        ("protocol", {"protocol": None, "scanner": None}, {"protocol": None}, False),
        ("protocol", {}, {"device": "aa"}, True),
    ],
    ids=["unknown", "device", "one-scanner", "two-devices", "one-unknown", "by-choice"],
)
def test_what_is_not_stated_puts_no_scanners_into_one_chart(
    tmp_path: Path, by: str, first: dict[str, Any], second: dict[str, Any], chart: bool
) -> None:
    rows = days(12, lambda day: 2.0, **first)
    later = days(12, lambda day: 3.0, **second)
    rows += [other | {"series": f"b{n}"} for n, other in enumerate(later)]
    path = write_csv(tmp_path / "s.csv", rows)
    (group,) = summarize([path], [by]).groups
    assert (group.chart is not None) is chart
    shown = run(path, "--by", by).output
    line = "1 of 1 group has a value that is not stated, so perhaps several scanners, and no"
    assert (line in shown) is (not chart)
    mixed = "1 of 1 control chart holds several scanners; add --by scanner"
    assert (mixed in shown) is (chart and len(group.scanners) > 1)


@pytest.mark.parametrize(("count", "charts"), [(2, 0), (9, 0), (10, 1)])
def test_few_days_have_no_chart_and_a_line_says_so(tmp_path: Path, count: int, charts: int) -> None:
    path = write_csv(tmp_path / "s.csv", days(count, lambda day: 2.0 + day % 2))
    shown = run(path).output
    assert shown.count("Drift: control chart") == charts
    line = "1 of 1 group has fewer than 10 days and no control chart"
    assert (line in shown) is (charts == 0)
    assert ("1 of 1 group has fewer than 5 series and no interval" in shown) is (count < 5)


def test_intervals_and_limits_stay_inside_the_grades(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "s.csv", days(12, lambda day: 4.0 * (day % 2)))
    (group,) = json.loads(run(path, "--json").output)["groups"]
    assert 0 < group["quality"]["low"] < 2 < group["quality"]["high"] < 4
    assert (group["chart"]["lower"], group["chart"]["upper"]) == (0, 4)


def test_a_series_over_midnight_has_its_earliest_date(tmp_path: Path) -> None:
    rows = [row(acquired="2026-02-01"), row(acquired=None), row(acquired="2026-01-31")]
    (group,) = summarize([write_csv(tmp_path / "s.csv", rows)]).groups
    assert [series.acquired for series in group.series] == ["2026-01-31"]


def test_without_dates_there_is_no_chart_and_a_line_says_so(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "s.csv", [row(acquired=None), row(series="b", acquired=None)])
    shown = run(path).output
    assert "2 of 2 series have no date, and no place in a control chart" in shown
    assert "Drift" not in shown
    (group,) = json.loads(run(path, "--json").output)["groups"]
    assert (group["chart"], group["undated_series"], group["days"]) == (None, 2, [])


def test_parquet_and_csv_give_one_summary(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra ray")
    rows = days(30, lambda day: 2 + 0.25 * (day % 3))
    first = run(write_csv(tmp_path / "s.csv", rows), "--json").output
    assert run(write_parquet(tmp_path / "s.parquet", rows), "--json").output == first


def test_files_that_cannot_be_put_together_are_refused(tmp_path: Path) -> None:
    a = write_csv(tmp_path / "a.csv", [row()])
    assert refused(a, a) == f"{a}: series 1.2.3 is also in {a}; give each series once"
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra ray")
    b = write_parquet(tmp_path / "b.parquet", [row()], weights="1")
    c = write_parquet(tmp_path / "c.parquet", [row(series="4")], weights="2")
    assert f"{c}: other weights scored it than {b}" in refused(b, c)
    d = write_parquet(tmp_path / "d.parquet", [row(series="4")], weights="1")
    assert summarize([b, d]).weights_sha256 == "1"


def test_files_without_scores_are_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "s.csv", [])
    assert refused(path) == f"{path}: has no rows; give a file with scores"
    write_csv(path, [row(score=None)])
    assert refused(path).startswith(f"{path}: none of 1 slice has a score")
    assert refused(tmp_path / "x.csv") == f"{tmp_path / 'x.csv'}: no such file"


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "s.csv", [row(protocol="[red]x$y$\x1b[2J")])
    shown = run(path, "--by", "protocol").output
    assert "[red]x$y$" in shown and "\x1b" not in shown
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the extra plot")
    run(path, "--plot", tmp_path / "s.svg")
    assert (tmp_path / "s.svg").stat().st_size > 1000


def plotted(tmp_path: Path, rows: list[dict[str, Any]]) -> Any:
    """Return the axes of the plot of rows, by scanner."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the extra plot")
    from matplotlib.figure import Figure

    from clinreadnet.scoring import summary_plot

    figures: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, path, dpi: figures.append(self))
        patch.setattr(summary_plot, "whole_file", lambda target: open(tmp_path / "x", "w"))
        summary = summarize([write_csv(tmp_path / "s.csv", rows)], ["scanner"])
        summary_plot.write_summary_plot(summary, tmp_path / "s.png")
    return figures[0].axes


def test_the_plot_shows_each_series_and_each_chart(tmp_path: Path) -> None:
    rows = days(15, lambda day: 2.0 - (day == 7), scanner="A")
    rows += days(15, lambda day: 3.0, scanner="B", ctdi_vol_mgy=None)
    doses, a, b = plotted(tmp_path, rows)
    assert np.shape(doses.collections[0].get_offsets()) == (15, 2)
    assert doses.get_xlabel() == "CTDIvol (mGy) (15 series state none)"
    assert a.get_title().startswith("A: ") and b.get_title().startswith("B: ")
    eighth = (date(2026, 1, 8) - date(1970, 1, 1)).days
    assert np.asarray(a.collections[0].get_offsets()).tolist() == [[eighth, 1.0]]
    assert np.size(b.collections[0].get_offsets()) == 0
    assert [text.get_text() for text in a.texts] == ["1"] and list(b.texts) == []
    assert "numbers: rules of Western Electric" in a.get_title()
    assert "rules" not in b.get_title()


def test_years_are_wider_than_months_in_a_chart(tmp_path: Path) -> None:
    rows = days(12, lambda day: 2.0 + day % 2, scanner="A")
    rows += [row(series="old", score=2.0, scanner="A", acquired="2006-01-01")]
    chart = plotted(tmp_path, rows)[1]
    x = chart.lines[0].get_xdata()
    assert (x[1] - x[0]).days == 7305 and (x[12] - x[1]).days == 11
    low, high = chart.get_xlim()
    assert high - low > 7305


def test_without_dose_the_groups_take_the_place_of_its_axis(tmp_path: Path) -> None:
    rows = days(15, lambda day: 2.0 + day % 2, scanner="A", ctdi_vol_mgy=None)
    rows += days(3, lambda day: 3.0, scanner="B", ctdi_vol_mgy=None)
    groups, chart = plotted(tmp_path, rows)
    assert groups.get_xlabel().endswith("no series states a CTDIvol")
    assert [label.get_text() for label in groups.get_yticklabels()] == ["A (15)", "B (3)"]
    assert [len(points.get_offsets()) for points in groups.collections] == [15, 3]
    assert len(groups.lines) == 3  # two means, and the interval of A
    assert chart.get_title().startswith("A:")


def test_a_plot_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the extra plot")
    path = write_csv(tmp_path / "s.csv", [row()])
    before = path.read_bytes()
    assert "is also an input" in refused(path, "--plot", path)
    assert "cannot draw that format" in refused(path, "--plot", tmp_path / "s.txt")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_csv_needs_neither_pyarrow_nor_torch(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "s.csv", [row()])
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'ray', 'pyarrow', 'triton'])); "
        f"sys.argv = ['clinreadnet', 'summarize', {str(path)!r}]; "
        "from clinreadnet.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "s.csv").write_bytes(b"PAR1")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "clinreadnet: summarize needs pyarrow, which is not installed; run "
        '`pip install "clinreadnet[ray]"`\n'
    )


@pytest.mark.parametrize("width", [100, 40])
def test_the_mean_is_readable_on_a_narrow_terminal(tmp_path: Path, width: int) -> None:
    printed = io.StringIO()
    rows = [row(score=3.25, protocol="a protocol with a very long name indeed")]
    summary = summarize([write_csv(tmp_path / "s.csv", rows)], ["protocol"])
    print_summary(summary, Console(file=printed, width=width))
    table = [line for line in printed.getvalue().splitlines() if line.startswith(("│", "┃"))]
    assert table and max(map(len, table)) <= width
    assert any("quality" in line for line in table) and any("3.25" in line for line in table)
