"""The PDF pages of scored series: content, layout, and equal bytes."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from support.dicom_files import noise, write_series
from support.tiny_bundle import write_bundle
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.data.acquisition import Acquisition
from clinreadnet.data.slices import find_slices
from clinreadnet.errors import InputError
from clinreadnet.runtime import Session
from clinreadnet.scoring import pdf, plot
from clinreadnet.scoring.breaches import check_limits
from clinreadnet.scoring.overlay import shade
from clinreadnet.scoring.protocol_limits import read_protocol_limits
from clinreadnet.scoring.result import SeriesReport
from clinreadnet.scoring.run import score_slices
from clinreadnet.spec import RESEARCH_USE

PATIENT = "Doe^Jane"
DOSE = Acquisition(
    ctdi_vol_mgy=8.0,
    exposure_mas=100.0,
    kvp=120.0,
    kernel="Br40",
    thickness_mm=2.5,
    scanner="Maker One",
    protocol="Abdomen",
    acquired="2026-01-31",
    device="0123abcd",
    ctdi_phantom_cm=32.0,
    tube_current_ma=210.0,
)
LONG = replace(
    DOSE,
    kernel="K" * 64,
    scanner="W" * 64,
    protocol="$x^{2$ \u8179\u90e8 " + "m" * 50,
    exposure_source="corrected",
    ctdi_vol_mgy=1234.5678,
    tube_current_ma=None,
)
REMARK = (
    "looks denoised: noise of 7.1 HU, where 25.3 is expected; low score for its noise of 7.1 HU"
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(write_bundle(tmp_path_factory.mktemp("bundle") / "b"), "onnxruntime-cpu")


@pytest.fixture(scope="module")
def scored(session: Session, tmp_path_factory: pytest.TempPathFactory) -> SeriesReport:
    folder = tmp_path_factory.mktemp("secret-folder")
    write_series(folder / "series", 4, PatientName=PATIENT, PatientID="4711")
    return score_slices(session, find_slices([folder / "series"]), figures=True)


def make(
    scored: SeriesReport,
    count: int,
    *,
    series: str = "1.2.840.113619.2.5.1762583153.215519.978957063.78.12345678901234",
    acquisition: Acquisition = DOSE,
    positions: bool = True,
    **values: Any,
) -> SeriesReport:
    """Return a series of ``count`` slices with falling scores and the pixels of ``scored``."""
    slices, refs = [], []
    for number in range(count):
        source = number % len(scored.refs)
        z = 2.5 * number - 300 if positions else None
        header: dict[str, Any] = {"series": series, "acquisition": acquisition, "position": z}
        changed = {"score": 3.9 - 3 * number / count, **header, **values}
        slices.append(replace(scored.slices[source], **changed))
        refs.append(replace(scored.refs[source], **header))
    return SeriesReport(slices, refs, scored.outputs)


def join(*parts: SeriesReport) -> SeriesReport:
    slices, refs = (
        [*chain.from_iterable(getattr(p, n) for p in parts)] for n in ("slices", "refs")
    )
    return SeriesReport(slices, refs, parts[0].outputs)


def draw(report: SeriesReport, session: Session) -> list[Figure]:
    with matplotlib.rc_context(pdf.STYLE):
        return list(pdf.draw_pages(report, session.describe()))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


CASES: dict[str, Any] = {
    "1": lambda scored: make(scored, 1),
    "25": lambda scored: make(scored, 25),
    "250": lambda scored: make(scored, 250),
    "no-positions": lambda scored: make(scored, 25, positions=False),
    "no-dose": lambda scored: make(scored, 25, acquisition=Acquisition()),
    "no-figures": lambda scored: make(scored, 5, figures=None),
    "not-judged": lambda scored: replace(make(scored, 5, in_domain=None), unjudged="why " * 300),
    "site": lambda scored: make(scored, 5, site_score=2.5),
    "long": lambda scored: make(
        scored,
        25,
        acquisition=LONG,
        header="head by its header",
        region="edge",
        region_reason="small: dome of the liver",
        remark=REMARK,
        path=f"/x/{'W' * 200}.dcm",
        frame=3,
    ),
    "two": lambda scored: join(
        make(scored, 12),
        make(scored, 3, series="1.3", in_domain=False, region="outside", region_reason="x: head"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_cut_and_nothing_overlaps(
    scored: SeriesReport, session: Session, case: str
) -> None:
    report = CASES[case](scored)
    figures = draw(report, session)
    assert len(figures) == len(report.members)
    for figure in figures:
        assert figure.get_size_inches() * 25.4 == pytest.approx([210, 297])
        figure.set_dpi(300)  # where the hinting of a screen does not widen letters
        FigureCanvasAgg(figure)
        with matplotlib.rc_context(pdf.STYLE):
            figure.draw_without_rendering()
            boxes = [(t.get_text(), t.get_window_extent()) for t in figure.texts if t.get_text()]
            boxes += [(f"axes {n}", a.get_tightbbox()) for n, a in enumerate(figure.axes)]
        per_mm = figure.dpi / 25.4
        for name, box in boxes:  # US Letter is 9 mm lower at either end
            assert box.x0 >= 19.5 * per_mm and box.x1 <= 195.5 * per_mm, name
            assert box.y0 >= 19 * per_mm and box.y1 <= (297 - 19) * per_mm, name
        for (name, a), (other, b) in combinations(boxes, 2):
            apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
            assert apart, f"{name!r} overlaps {other!r}"


def test_it_says_what_was_scored_and_with_what(scored: SeriesReport, session: Session) -> None:
    (figure,) = draw(make(scored, 25), session)
    page = "\n".join(texts(figure))
    facts = session.describe()
    for expected in (
        RESEARCH_USE,
        "25 slices, -300 ... -240 mm",
        "Maker One",
        "0123abcd",
        "Abdomen",
        "Br40",
        "2026-01-31",
        "2.5 mm",
        "210 mA",
        "8 mGy; 32 cm phantom",
        facts["weights_sha256"],
        "onnxruntime-cpu in fp32",
        "noise (HU)",
        "Signature:",
        "Of 25 slices left out: outside 0 (0%), novel 0 (0%); not left out: edge 0 (0%).",
    ):
        assert expected in page
    assert PATIENT not in page and "4711" not in page


def test_the_charts_share_z_and_hold_score_noise_and_current(
    scored: SeriesReport, session: Session
) -> None:
    report = make(scored, 25)
    (figure,) = draw(report, session)
    scores, noises, currents = figure.axes[:3]
    places = [entry.position for entry in report.slices]
    measured = [entry.figures.noise_hu for entry in report.slices if entry.figures]
    expected: tuple[Any, ...] = [s.score for s in report.slices], measured, [210.0] * 25
    for axes, values in zip((scores, noises, currents), expected, strict=True):
        assert np.asarray(axes.lines[0].get_xdata()).tolist() == places
        np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata()), values)
        assert axes.get_xlim() == scores.get_xlim()
    assert currents.get_xlabel() == "position along the slice normal (mm)"
    assert currents.get_ylabel() == "current\n(mA)"
    (figure,) = draw(make(scored, 2, acquisition=replace(DOSE, tube_current_ma=None)), session)
    assert figure.axes[2].get_ylabel() == "exposure\n(mAs)"


def test_the_worst_slices_are_shown_in_their_window(scored: SeriesReport, session: Session) -> None:
    report = make(scored, 6)
    marked = replace(report.slices[5], in_domain=False, region="outside")
    report = replace(report, slices=[*report.slices[:5], marked])
    (figure,) = draw(report, session)
    pictures = figure.axes[3:]
    for axes, index in zip(pictures, (4, 3, 2), strict=True):
        expected = shade(report.refs[index].load(), 400, 40)
        np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), expected)
        assert axes.get_aspect() == 1
        page = "\n".join(texts(figure))
        assert f"slice {index + 1}, {report.slices[index].position:.1f} mm" in page


def test_figures_are_those_of_slices_that_are_not_left_out(
    scored: SeriesReport, session: Session
) -> None:
    report = make(scored, 4)
    slices = [replace(report.slices[0], in_domain=False, region="outside"), *report.slices[1:]]
    (figure,) = draw(replace(report, slices=slices), session)
    written = texts(figure)
    kept = [entry.score for entry in slices[1:]]
    first = written.index("score")
    rows = first - 1 + len([*pdf.FIGURES, "score"])
    assert written[rows + 2] == f"{np.mean(kept):.2f}"  # below the heading "mean"
    assert (
        "Of 4 slices left out: outside 1 (25%), novel 0 (0%); not left out: edge 0 (0%)." in written
    )


def test_exceeded_limits_are_on_the_page_of_their_series(
    scored: SeriesReport, session: Session, tmp_path: Path
) -> None:
    (tmp_path / "limits.toml").write_text("[default]\nleast_mean_score = 2.0\n")
    report = join(make(scored, 4), make(scored, 1, series="1.3", score=1.0))
    limits = read_protocol_limits(tmp_path / "limits.toml")
    report = replace(report, limits=check_limits(report.slices, limits))
    kept, exceeded = ("\n".join(texts(figure)) for figure in draw(report, session))
    assert "Limit exceeded" in exceeded and "Limit exceeded" not in kept


def test_equal_reports_have_equal_bytes_without_paths_and_names(
    scored: SeriesReport, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1769817600")  # 2026-01-31
    report = CASES["two"](scored)
    for name in ("a.pdf", "b.pdf"):
        pdf.write_pdf(report, session.describe(), tmp_path / name)
    content = (tmp_path / "a.pdf").read_bytes()
    assert content == (tmp_path / "b.pdf").read_bytes()
    assert len(re.findall(rb"/Type /Page\b", content)) == 2
    assert b"/MediaBox [ 0 0 595.27" in content and b"CreationDate" not in content
    for secret in (str(tmp_path), "secret-folder", PATIENT, "4711", str(session.bundle)):
        assert secret.encode() not in content
    figure, _ = draw(report, session)
    assert any("Made on 2026-01-31 by ClinReadNet" in line for line in texts(figure))
    assert not any("secret-folder" in line or "/" + "series" in line for line in texts(figure))


def test_the_command_measures_the_figures_and_writes_the_pages(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_series(tmp_path / "series", 2)
    np.save("stack.npy", noise(0, (3, 512, 512)))
    words = ["score", "series", "stack.npy", "--bundle", str(session.bundle)]
    done = CliRunner().invoke(app, [*words, "--pdf", "a.pdf", "--csv", "a.csv"])
    assert done.exit_code == 0, done.output
    assert len(re.findall(rb"/Type /Page\b", Path("a.pdf").read_bytes())) == 2
    with Path("a.csv").open(newline="") as file:
        assert all(float(row["noise_hu"]) > 0 for row in csv.DictReader(file))
    Path("limits.toml").write_text("[default]\nmost_noise_hu = 1.0\n")
    done = CliRunner().invoke(app, [*words, "--pdf", "b.pdf", "--limits", "limits.toml"])
    assert "limit" in str(done.exception) and Path("b.pdf").exists()  # measured, and exceeded
    done = CliRunner().invoke(app, [*words, "--pdf", "a.csv", "--csv", "a.csv"])
    assert isinstance(done.exception, InputError) and "name one place" in str(done.exception)


def test_a_missing_matplotlib_is_named_before_scoring(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", noise())
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    done = CliRunner().invoke(
        app, ["score", "a.npy", "--bundle", str(session.bundle), "--pdf", "a.pdf"]
    )
    assert isinstance(done.exception, InputError) and "clinreadnet[plot]" in str(done.exception)
    assert not Path("a.pdf").exists()
