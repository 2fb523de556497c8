"""The page is well-formed and self-contained, and the command writes it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support import recorded_run
from support.browser import needs_chromium, tab
from support.tiny_bundle import write_bundle

from bench.report.__main__ import main
from bench.report.figures import HEIGHT, KINDS, WIDTH, Series, chart
from bench.report.page import DeploymentReport
from bench.rows import ArrivalRow
from clinreadnet.errors import InputError
from clinreadnet.runtime.bundle.files import load_manifest

HOSTILE = 'a "machine" <script>alert(1)</script> & co'


@pytest.fixture(scope="module")
def results(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    digests: dict[str, str] = {a.precision: a.sha256 for a in load_manifest(bundle).artifacts}
    rows = [
        recorded_run.row(
            name, precision, s * batch**0.9, batch=batch, role=role, sha256=digests[precision], **f
        )
        for batch in (1, 2, 8)
        for name, precision, s, role, f in (
            ("onnxruntime-cpu", "fp32", 0.2, "artifact", {}),
            ("onnxruntime-cpu", "fp16", 0.1, "artifact", {"marks": ["CV 9 %"], "ratio": [2, 1, 3]}),
            ("openvino", "fp32", 0.15, "peer", {}),
        )
    ]
    cold = {"op": "cold-start", "candidate": "openvino", "precision": "fp32", "n": 3}
    other = [
        {
            "name": "test_cold_start[openvino-fp32]",
            "fullname": "bench/test_network.py::test_cold_start[openvino-fp32]",
            "extra_info": cold | {"load": 1.25, "first": 0.5},
        },
        {
            "name": "test_files_included",
            "fullname": "bench/test_score_speed.py::test_files_included",
            "extra_info": {"slices_per_second": 7.25},
            "stats": {"min": 3.0, "median": 3.1, "rounds": 3},
        },
        {
            "name": "test_ops[mlp 1]",
            "fullname": "bench/test_ops.py::test_ops[mlp 1]",
            "extra_info": {
                **{"op": "op", "what": "mlp 1", "flops": 6e8, "bytes": 3e7, "limit": 0.01},
                **{"p50": 0.02, "percent_of_limit": 50.0, "marks": []},
            },
        },
    ]
    arrivals = [
        ArrivalRow("onnxruntime-cpu", "fp32", 1, "Server", rate, 600, rate, 0.2, 0.3, 0.4)
        for rate in (1.0, 2.0)
    ]
    other += [
        {
            "name": f"test_arrivals[{number}]",
            "fullname": f"bench/test_arrivals.py::test_arrivals[{number}]",
            "extra_info": row.to_json(),
        }
        for number, row in enumerate(arrivals)
    ]
    content = recorded_run.document([*rows, *other])
    content["machine_info"]["cpu"]["brand_raw"] = HOSTILE
    folder = tmp_path_factory.mktemp("results")
    recorded_run.write(folder, content)
    return folder


@pytest.fixture(scope="module")
def page(bundle: Path, results: Path) -> str:
    return DeploymentReport(bundle, results, budget="score<=0.02").html()


class Page(HTMLParser):
    """A parser that collects tags, attributes and cells. Every tag must be closed in order."""

    VOID = {"meta", "link"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.rows[-1][-1] += data


def test_the_page_is_well_formed_and_fetches_nothing(page: str) -> None:
    parsed = Page(page)
    assert {"script", "img", "iframe", "object", "image", "use"}.isdisjoint(parsed.tags)
    assert not re.search(r"https?:|//\w|@import|url\(", page)
    links = [value for name, value in parsed.attributes if name in ("href", "src")]
    assert links == ["data:,"]  # an empty icon, or browsers ask for one
    assert "prefers-color-scheme: dark" in page
    assert ("name", "viewport") in parsed.attributes


def test_figures_hold_every_point(page: str) -> None:
    figures = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    assert [re.search(r"<figcaption>(.*?)<", figure)[1] for figure in figures] == [  # type: ignore[index]
        "Latency and accuracy",
        "Throughput",
        "Roofline",
        "Latency and arrivals",
    ]
    assert [figure.count("<circle") for figure in figures] == [3, 9, 9, 4]
    for figure in figures:
        for x, y in re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', figure):
            assert 0 < float(x) < WIDTH and 0 < float(y) < HEIGHT


def test_every_series_has_a_label_of_its_own(page: str) -> None:
    """A machine with many backends, whose points are close to each other."""
    many = [
        Series(f"backend {i}", ((1.0, 1 + i / 50), (2.0, 2 + i / 50)), kind, line=True)
        for i, kind in enumerate(KINDS * 3)
    ]
    for series in (many, [replace(s, points=s.points[:1], line=False) for s in many]):
        drawn = chart("t", series, "x", "y")
        labels = re.findall(r'<text class="name (\w+)" x="([\d.]+)" y="([\d.]+)">(.*?)<', drawn)
        assert {(kind, name) for kind, _, _, name in labels} == {(o.kind, o.name) for o in series}
        places = [(float(x), float(y), 6.6 * len(name)) for _, x, y, name in labels]
        assert all(0 < x and x + width <= WIDTH and 0 < y < HEIGHT for x, y, width in places)
        for n, (x, y, width) in enumerate(places):
            for a, b, other in places[:n]:
                assert abs(y - b) >= 13.9 or x + width <= a or a + other <= x
    assert all(f"svg text.name.{kind} {{" in page for kind in KINDS)


def test_the_page_begins_with_its_answer(page: str, bundle: Path, results: Path) -> None:
    text = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    text = text[text.index("<body>") :]
    assert text.index("nothing measured is within score&lt;=0.02") < text.index("Network <b>")
    assert text.index("score not measured") < text.index("Network <b>")
    wide = DeploymentReport(bundle, results, budget="error<=1").recommendations[0]
    assert wide.machine == HOSTILE + ", 2 threads"


def test_the_budget_and_the_limits_are_drawn_and_named(page: str) -> None:
    first, _, third, _ = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    assert "budget, 0.02<" in first and first.count('class="line limit"') == 1
    # An interval for each point.
    assert len(re.findall(r'class="line (?!limit)\w+" d="M[\d.]+ [\d.]+H', first)) == 3
    limits = re.findall(r'class="line limit" stroke-dasharray="([\d ]+)"', third)
    assert len(limits) == len(set(limits)) == third.count("limit, ") - third.count("<title>limit")


def test_every_row_is_in(page: str) -> None:
    rows = Page(page).rows
    network = [row for row in rows if len(row) == 12]
    assert len(network) == 9
    assert ["onnxruntime-cpu fp16", "1", "host", "CV 9 %", "100"] in [row[:5] for row in network]
    assert any(row[10] == "2.00 (1.00 … 3.00)" for row in network)
    assert any(row[0] == "openvino fp32 (peer)" for row in network)
    against = [row for row in rows if row[:3] == ["host", "1", "fp32"]]
    assert [row[3:] for row in against] == [
        ["onnxruntime-cpu", "200", "openvino", "150", "0.75", "slower by 33 %"]
    ]
    assert ["openvino fp32", "1.25", "0.50", "3"] in rows
    assert ["test_files_included", "3000 / 3100", "3", "7.2", ""] in rows
    assert ["mlp 1", "0.600", "28.6", "10.000", "20.000", "50"] in rows


def test_the_page_replaces_no_input(bundle: Path, results: Path) -> None:
    report = DeploymentReport(bundle, results, budget="score<=0.02")
    for path in (bundle / "manifest.json", report.runs[0].path):
        before = path.read_bytes()
        with pytest.raises(InputError, match="is also an input"):
            report.write(path)
        assert path.read_bytes() == before


def test_text_of_others_is_text(page: str) -> None:
    assert "&lt;script&gt;" in page and "<script" not in page
    assert "Not measured." in page  # the GPU
    assert "Research use only" in page


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return exit status, standard output and standard error of the command."""
    return (main(arguments), *capsys.readouterr())


def test_the_command_writes_prints_and_lists(
    bundle: Path,
    results: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "report.html"
    where = ("--bundle", str(bundle), "--results", str(results))
    arguments = (*where, "--out", str(out), "--budget", "PLCC<=0.5", "--json")
    status, printed, errors = run(capsys, *arguments)
    assert status == 0, errors
    document = json.loads(printed)
    (machine,) = document["machines"]
    assert machine["commit"] == recorded_run.COMMIT and len(machine["rows"]) == 9
    assert machine["recommendation"]["refused"][0]["reason"] == "PLCC not measured"
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_a_page_on_standard_output_takes_the_place_of_the_lines(
    bundle: Path, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = ["--bundle", str(bundle), "--results", str(results), "--out", "-"]
    assert main(where) == 0
    page = capfd.readouterr().out
    assert page.startswith("<!DOCTYPE html>") and page.endswith("</html>\n")
    with pytest.raises(SystemExit):
        main([*where, "--json"])
    assert "--out - and --json both write" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        pytest.param("no-results", 2, "no results yet", id="no-results"),
        pytest.param("old", 2, "results schema 0", id="old-results"),
        pytest.param("no-commit", 2, "commit is unknown", id="no-commit"),
        pytest.param("damaged", 2, "SHA-256 differs", id="damaged-bundle"),
        pytest.param("unverified", 1, "not verified", id="unverified-bundle"),
        pytest.param("budget", 2, "is not QUANTITY<=NUMBER", id="budget"),
        pytest.param("folder", 2, "no such folder", id="nowhere-to-write"),
    ],
)
def test_bad_input_is_one_line_and_no_page(
    bundle: Path,
    results: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: str,
    status: int,
    message: str,
) -> None:
    out, budget = tmp_path / "report.html", "score<=1"
    if change in ("no-results", "old", "no-commit"):
        results = tmp_path / "results"
        results.mkdir()
        if change == "old":
            recorded_run.write(results, recorded_run.document([], results_schema=0))
        if change == "no-commit":
            recorded_run.write(results, recorded_run.document([], commit_info={"id": "unknown"}))
    if change in ("damaged", "unverified"):
        bundle = write_bundle(tmp_path / "bundle", verified=change != "unverified")
        if change == "damaged":
            path = bundle / "clinreadnet.fp16.onnx"
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    if change == "budget":
        budget = "fast"
    if change == "folder":
        out = tmp_path / "nowhere" / "report.html"
    where = ("--bundle", str(bundle), "--results", str(results))
    code, printed, errors = run(capsys, *where, "--out", str(out), "--budget", budget)
    assert code == status
    assert message in errors and errors.count("\n") == 1
    assert printed == "" and not out.exists()


@needs_chromium
@pytest.mark.parametrize("width", [1400, 400], ids=["desk", "phone"])
def test_a_browser_shows_it_without_messages(page: str, tmp_path: Path, width: int) -> None:
    """The browser logs nothing. Every figure has a size, and nothing is wider than the screen."""
    path = tmp_path / "report.html"
    path.write_text(page)
    with tab(tmp_path / "profile") as opened:
        opened.open(path, width)
        seen = opened.run("""(() => {
          const boxes = [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect());
          return {
            figures: boxes.filter(b => b.width > 200 && b.height > 100).length,
            overflow: document.documentElement.scrollWidth - innerWidth,
            cut: [...document.querySelectorAll("td, th")].filter(
              c => c.getBoundingClientRect().right > innerWidth || c.scrollWidth > c.clientWidth + 1
            ).length,
            fetched: performance.getEntriesByType("resource").map(e => e.name),
          };
        })()""")
    assert seen["figures"] == 4
    assert seen["overflow"] <= 0 and seen["cut"] == 0
    assert [url for url in seen["fetched"] if url != "data:,"] == []
    assert opened.messages == []
