"""The page of a scored series, in a headless browser and by its data."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.browser import needs_chromium, tab
from support.dicom_files import write_series
from support.tiny_bundle import write_bundle
from support.viewer_page import document

from clinreadnet import limits
from clinreadnet.data.region import find_body
from clinreadnet.data.slices import find_slices
from clinreadnet.errors import InputError
from clinreadnet.runtime import Session
from clinreadnet.scoring.breaches import check_limits
from clinreadnet.scoring.overlay import OPACITY, VIRIDIS
from clinreadnet.scoring.protocol_limits import ProtocolLimits, Section
from clinreadnet.scoring.result import SeriesReport
from clinreadnet.scoring.run import score_slices
from clinreadnet.scoring.viewer import CODES, check_html, encode, write_html
from clinreadnet.spec import RESEARCH_USE

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: the extra plot")
TUBE = {"XRayTubeCurrent": 200, "ExposureTime": 500}
HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> SeriesReport:
    folder = tmp_path_factory.mktemp("viewer")
    write_series(folder / "series", 4, ProtocolName=HOSTILE, CTDIvol=4.5, **TUBE)
    session = Session(write_bundle(folder / "bundle"), "onnxruntime-cpu")
    return score_slices(session, find_slices([folder / "series"]))


@pytest.fixture(scope="module")
def page(report: SeriesReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "series.html"
    write_html(report, path)
    return path


def test_it_holds_the_scores_and_refers_to_nothing_else(page: Path, report: SeriesReport) -> None:
    text = page.read_text()
    content = document(text)
    assert [s["score"] for s in content["slices"]] == [round(s.score, 6) for s in report.slices]
    assert content["researchUse"] == RESEARCH_USE
    assert content["slices"][0]["acquisition"]["protocol"] == HOSTILE
    assert len(content["summary"]) == 1 and content["notes"] == [
        "Exposure (mAs) of 4 of 4 slices is tube current x time; the header states no exposure."
    ]
    assert text.count("</script>") == 2 and HOSTILE not in text
    outside = re.findall(r"(?:src|href)\s*=|https?://(?!www\.w3\.org/2000/svg)", text)
    assert outside == ["href=", "src ="]  # an empty icon, and the data of a slice
    assert "default-src 'none'" in text


def test_codes_keep_soft_tissue_within_their_step_and_the_file_within_its_share() -> None:
    grain = np.random.default_rng(0).normal(0, 30, (514, 514))  # then blurred, as a kernel does
    shifted = [grain[i : 512 + i, j : 512 + j] for i in range(3) for j in range(3)]
    hu = 40 + np.sum(shifted, axis=0) / 3
    content = encode(hu.astype(np.float32))
    assert len(content) <= 108_000
    difference = CODES[np.asarray(Image.open(io.BytesIO(content)))] - hu
    assert abs(difference.mean()) < 0.5
    assert difference.std() < 6
    assert len(CODES) == 256 and (np.diff(CODES) > 0).all()


def test_the_noisiest_slice_keeps_a_hundred_slices_below_15_megabytes() -> None:
    loud = np.random.default_rng(0).normal(40, 400, (512, 512)).astype(np.float32)
    assert 100 * (len(encode(loud)) * 4 / 3 + 2500) < 15e6


def test_too_many_slices_are_refused() -> None:
    with pytest.raises(InputError, match="at most 1000 fit on a page"):
        check_html(limits.PAGE_SLICES + 1)


PROBE = """(async () => {
  const result = {};
  const drawn = async words => {
    for (let i = 0; i < 2000 && document.body.dataset.drawn !== words; i++) {
      await new Promise(done => setTimeout(done, 10));
    }
    const data = context.getImageData(100, 200, 64, 64).data;
    let grey = 0, colour = 0;
    for (let i = 0; i < data.length; i += 4) {
      grey += data[i + 1];
      colour += Math.abs(data[i] - data[i + 1]);
    }
    return { drawn: document.body.dataset.drawn, grey: grey / 4096, colour: colour / 4096 };
  };
  const press = key => dispatchEvent(new KeyboardEvent("keydown", { key }));
  const start = state.index;
  result.start = [start, await drawn(`${start} false 400 40`)];
  press("Home"); result.home = await drawn("0 false 400 40");
  press("ArrowRight"); result.right = await drawn("1 false 400 40");
  press("ArrowLeft"); press("ArrowLeft"); result.left = await drawn("0 false 400 40");
  press("m"); result.map = await drawn("0 true 400 40");
  const all = context.getImageData(0, 0, size, size).data;
  result.body = Array.from({ length: size * size },
    (_, i) => all[4 * i] === all[4 * i + 1] && all[4 * i] === all[4 * i + 2] ? 0 : 1).join("");
  result.legend = getComputedStyle(el("legend")).backgroundImage;
  press("m"); result.plain = await drawn("0 false 400 40");
  el("width").value = 1400; el("width").dispatchEvent(new Event("input"));
  result.wide = await drawn("0 false 1400 40");
  press("0");
  const box = el("curve").getBoundingClientRect();
  el("curve").dispatchEvent(new MouseEvent("click",
    { clientX: box.left + box.width * 545 / 560, clientY: box.top + 50 }));
  result.clicked = await drawn("3 false 400 40");
  result.worst = [...document.querySelectorAll("#worst button")].map(b => Number(b.value));
  result.overflow = document.documentElement.scrollWidth - innerWidth;
  result.fetched = performance.getEntriesByType("resource").map(e => e.name.slice(0, 40));
  return result;
})()"""


@needs_chromium
def test_keys_clicks_and_the_window_work_in_a_browser(
    page: Path, report: SeriesReport, tmp_path: Path
) -> None:
    with tab(tmp_path / "profile") as opened:
        opened.open(page, width=390)
        seen = opened.run(PROBE)
    assert opened.messages == []
    scores = [s.score for s in report.slices]
    assert seen["worst"] == sorted(range(4), key=lambda i: scores[i])
    assert seen["start"] == [seen["worst"][0], seen["start"][1]]
    for key, drawn in (
        ("home", "0 false 400 40"),
        ("right", "1 false 400 40"),
        ("left", "0 false 400 40"),
        ("map", "0 true 400 40"),
        ("plain", "0 false 400 40"),
        ("wide", "0 false 1400 40"),
        ("clicked", "3 false 400 40"),
    ):
        assert seen[key]["drawn"] == drawn, key

    def grey(index: int, width: float) -> float:
        hu = report.refs[index].load()[200:264, 100:164]
        return float(np.mean(255 * np.clip((hu - 40 + width / 2) / width, 0, 1)))

    assert seen["home"]["grey"] == pytest.approx(grey(0, 400), abs=1)
    assert seen["right"]["grey"] == pytest.approx(grey(1, 400), abs=1)
    assert seen["wide"]["grey"] == pytest.approx(grey(0, 1400), abs=1)
    assert seen["home"]["colour"] == seen["plain"]["colour"] == 0
    assert seen["map"]["colour"] > 10
    body = find_body(report.refs[0].load())
    assert 0.5 < body.mean() < 0.95
    coloured = np.array(list(seen["body"]), int).reshape(512, 512) == 1
    np.testing.assert_array_equal(coloured, body)  # and not the air around it
    colours = ", ".join(f"rgba({r}, {g}, {b}, {OPACITY})" for r, g, b in VIRIDIS)
    assert seen["legend"] == (
        f"linear-gradient(to right, {colours}), linear-gradient(to top, rgb(0, 0, 0), "
        "rgb(255, 255, 255))"
    )
    assert seen["overflow"] <= 0
    assert [url for url in seen["fetched"] if not url.startswith("data:")] == []


@needs_chromium
def test_long_names_of_series_are_folded_and_each_slice_names_its_series(
    report: SeriesReport, tmp_path: Path
) -> None:
    slices = [replace(s, series="1.2." + str(i // 2) * 58) for i, s in enumerate(report.slices)]
    least = ProtocolLimits("limits.toml", Section("*", {"least_score": 3.99}))
    target = tmp_path / "page.html"
    write_html(replace(report, slices=slices, limits=check_limits(slices, least)), target)
    with tab(tmp_path / "profile") as opened:
        opened.open(target, width=390)
        seen = opened.run("""(() => {
          const captions = slices.map((one, i) => { show(i); return el("caption").textContent; });
          return { captions, notes: el("notes").textContent,
            overflow: document.documentElement.scrollWidth - innerWidth };
        })()""")
    assert seen["notes"].count("Limit exceeded: 1.2.") == 2
    assert seen["overflow"] <= 0
    named = [re.search(r", series (\d), ", caption) for caption in seen["captions"]]
    assert [match and match[1] for match in named] == ["1", "1", "2", "2"]


CONTRAST = 4.5
"""Least ratio of text to its ground: WCAG 2.2, level AA."""
THEME = """(() => {
  const of = id => getComputedStyle(id === "body" ? document.body : el(id));
  const curve = document.querySelector("#curve text");
  return {
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    paper: of("body").backgroundColor, ink: of("body").color, note: of("facts").color,
    axis: curve ? getComputedStyle(curve).fill : of("facts").color,
    line: getComputedStyle(document.querySelector(".dot")).fill,
  };
})()"""


def luminance(colour: str) -> float:
    """Return the relative luminance of ``rgb(r, g, b)``."""
    parts = [int(part) / 255 for part in re.findall(r"[0-9]+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@needs_chromium
@pytest.mark.parametrize(("scheme", "dark"), [("dark", True), ("light", False)])
def test_it_can_be_read_in_the_light_and_in_the_dark_theme(
    page: Path, tmp_path: Path, scheme: str, dark: bool
) -> None:
    with tab(tmp_path / "profile") as opened:
        opened.open(page, scheme=scheme)
        seen = opened.run(THEME)
    assert seen["dark"] is dark
    paper = luminance(seen["paper"])
    assert (paper < 0.1) is dark
    for name in ("ink", "note", "axis", "line"):
        low, high = sorted((paper, luminance(seen[name])))
        assert (high + 0.05) / (low + 0.05) >= CONTRAST, name
