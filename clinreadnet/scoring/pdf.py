"""Write scored series as PDF, for the binder of a quality assurance programme: a page each.

A page is A4. What it shows lies inside 175 x 257 mm, so that it fits on US Letter too. It holds no
name or identifier of a patient and no path. Equal reports of one day have equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from clinreadnet._version import __version__
from clinreadnet.data.acquisition import exposure_lines
from clinreadnet.data.region import EDGE, OUTSIDE
from clinreadnet.data.slices import framed
from clinreadnet.errors import counted, visible
from clinreadnet.files import whole_file
from clinreadnet.physics.table import FIGURES, METHODS, figure_lines
from clinreadnet.scoring.domain import domain_lines, domain_mark
from clinreadnet.scoring.overlay import shade
from clinreadnet.scoring.plot import check_matplotlib, draw_scores, places_of
from clinreadnet.scoring.result import SeriesReport, SliceScore
from clinreadnet.scoring.site_map import site_lines
from clinreadnet.spec import RESEARCH_USE

_PAGE = (210.0, 297.0)  # mm
_LEFT, _WIDTH = 20.0, 175.0  # of what is shown, mm
_MIDDLE = 110.0  # left end of the right column, mm
_HALF = _LEFT + _WIDTH - _MIDDLE
_POINT = 25.4 / 72  # mm
_LEADING = 1.4  # from line to line, in sizes of the font
_LINE = 7 * _LEADING * _POINT  # mm
_WINDOW = (400.0, 40.0)  # width and level, HU
_WORST = 3
_NOT_STATED = "not stated"
_NOTES = 13  # lines that fit beside the table
_FONT = "DejaVu Sans"  # comes with matplotlib
STYLE: dict[Any, Any] = {  # keys: names of settings of matplotlib
    "font.family": _FONT,
    "font.size": 7,
    "axes.linewidth": 0.6,
    "axes.titlesize": 7,
    "image.interpolation": "none",  # the pixels of the slice, not those of a screen
    "pdf.fonttype": 42,  # text that can be searched
    "text.parse_math": False,
    "text.usetex": False,
}


def write_pdf(report: SeriesReport, session: Mapping[str, Any], target: Path) -> None:
    """Write a page of each series atomically. The pixels of its worst slices are read again.

    Args:
        report: result of `score_slices`, with figures.
        session: result of `Session.describe`.
        target: ``.pdf`` file.

    Raises:
        InputError: matplotlib is not installed, a slice can no longer be read, or ``target`` cannot
            be written.
    """
    check_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_pdf import PdfPages

    metadata = {
        "Title": "Image quality of CT series",
        "Subject": RESEARCH_USE,
        "Creator": f"ClinReadNet {__version__}",
        "CreationDate": None,
    }
    with (
        matplotlib.rc_context(STYLE),
        whole_file(target) as temporary,
        temporary.open("wb") as file,  # PdfPages leaves a file of its own open on a full disk
        PdfPages(file, metadata=metadata) as pages,
    ):
        for figure in draw_pages(report, session):
            figure.savefig(pages, format="pdf")


def draw_pages(report: SeriesReport, session: Mapping[str, Any]) -> Iterator[Any]:
    """Draw the pages. Arguments as in `write_pdf`.

    Yields:
        The ``matplotlib.figure.Figure`` of each series.
    """
    from matplotlib.figure import Figure

    members = list(report.members.values())
    for number, own in enumerate(members, start=1):
        figure = Figure(figsize=(_PAGE[0] / 25.4, _PAGE[1] / 25.4))
        slices = [report.slices[index] for index in own]
        _write(figure, _LEFT, 20, ["Image quality of a CT series"], size=14, weight="bold")
        _write(figure, _LEFT, 27, [RESEARCH_USE], size=9)
        if len(members) > 1:
            _write(figure, _MIDDLE, 22, [f"Series {number} of {len(members)}"], size=9)
        _draw_facts(figure, 33, report, own)
        _draw_charts(figure, slices)
        _draw_worst(figure, 147, report, own)
        _draw_table(figure, 219, slices)
        _draw_notes(figure, 219, report, slices)
        _draw_provenance(figure, 257, session)
        signature = "Name, function:", "Signature:", "Date:"
        for left, width, label in zip((20, 90, 160), (65, 65, 35), signature, strict=True):
            _write(figure, left, 273, [label], size=7)
            _draw_line(figure, left + 1.4 * len(label), left + width, 276)
        yield figure


def _draw_facts(figure: Any, top: float, report: SeriesReport, own: Sequence[int]) -> None:
    """Draw what the headers say about a series, in two columns."""
    slices = [report.slices[index] for index in own]
    series = slices[0].series
    acquisitions = [entry.acquisition for entry in slices]
    places, label = places_of(slices)
    count = counted(len(slices), "slice")
    if label != "slice":
        count += f", {_range(places, 'mm')}"
    if skipped := sum(ref.series == series for ref in report.skipped):
        count += f"; {skipped} without a body left out"
    phantom = _range((a.ctdi_phantom_cm for a in acquisitions), "cm phantom")
    dose = _range((a.ctdi_vol_mgy for a in acquisitions), "mGy")
    columns = (
        (
            ("Slices", count),
            ("Acquired", _names(a.acquired for a in acquisitions)),
            ("Scanner", _names(a.scanner for a in acquisitions)),
            ("Device hash", _names(a.device for a in acquisitions)),
            ("Protocol", _names(a.protocol for a in acquisitions)),
            ("Kernel", _names(a.kernel for a in acquisitions)),
        ),
        (
            ("Thickness", _range((a.thickness_mm for a in acquisitions), "mm")),
            ("Voltage", _range((a.kvp for a in acquisitions), "kV")),
            ("Current", _range((a.tube_current_ma for a in acquisitions), "mA")),
            ("Exposure", _range((a.exposure_mas for a in acquisitions), "mAs")),
            ("CTDIvol", dose if dose == _NOT_STATED else f"{dose}; {phantom}"),
        ),
    )
    for left, above, room, rows in (
        (_LEFT, top, _WIDTH, [("Series", Path(series).name)]),
        (_LEFT, top + _LINE, _HALF, columns[0]),
        (_MIDDLE, top + _LINE, _HALF, columns[1]),
    ):
        names, values = zip(*rows, strict=True)
        _write(figure, left, above, names, color="0.4")
        _write(figure, left + 17, above, [_fitted(value, room - 17, 7) for value in values])


def _names(values: Iterable[str | None]) -> str:
    """Return the different texts of the slices of a series, in their order."""
    return ", ".join(dict.fromkeys(value for value in values if value)) or _NOT_STATED


def _range(values: Iterable[float | None], unit: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return _NOT_STATED
    low, high = f"{min(known):.4g}", f"{max(known):.4g}"
    return f"{low} {unit}" if low == high else f"{low} ... {high} {unit}"


def _draw_charts(figure: Any, slices: Sequence[SliceScore]) -> None:
    """Draw score, noise and tube current along z, on one axis."""
    scores, noise, current = (
        _add_axes(figure, 42, top, 152, height) for top, height in ((65, 34), (103, 14), (121, 14))
    )
    draw_scores(scores, slices, "")
    scores.title.set_fontsize(7)
    places, label = places_of(slices)
    _draw_values(noise, places, [getattr(s.figures, "noise_hu", None) for s in slices])
    noise.set_ylabel("noise\n(HU)")
    values = [entry.acquisition.tube_current_ma for entry in slices]
    exposures = [entry.acquisition.exposure_mas for entry in slices]
    stated = any(values) or not any(exposures)
    _draw_values(current, places, values if stated else exposures)
    current.set_ylabel("current\n(mA)" if stated else "exposure\n(mAs)")
    for axes in (scores, noise):
        axes.set_xlabel("")
        axes.tick_params(labelbottom=False)
    for axes in (noise, current):
        axes.set_xlim(scores.get_xlim())
    current.set_xlabel(label)
    for axes in (scores, noise, current):
        axes.yaxis.set_label_coords(-0.105, 0.5)


def _draw_values(axes: Any, places: Sequence[float], values: Sequence[float | None]) -> None:
    """Draw a value of each slice from 0; None is a gap."""
    if not any(values):
        axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center", va="center")
        axes.set_yticks([])
        return
    marker = "o" if len(values) <= 100 else None
    drawn = np.array(values, np.float64)
    axes.plot(places, drawn, color="C0", marker=marker, markersize=3, linewidth=1)
    axes.set_ylim(0, 1.15 * np.nanmax(drawn))
    axes.grid(alpha=0.3)


def _draw_worst(figure: Any, top: float, report: SeriesReport, own: Sequence[int]) -> None:
    """Draw the slices with the lowest scores. Novel slices come after all others."""

    def key(index: int) -> tuple[bool, float]:
        return report.slices[index].in_domain is False, report.slices[index].score

    width, level = _WINDOW
    title = f"Lowest scores, window {width:.0f}/{level:.0f} HU"
    _write(figure, _LEFT, top, [title], weight="bold")
    side = (_WIDTH - 2 * 5) / _WORST
    for place, index in enumerate(sorted(own, key=key)[:_WORST]):
        entry, left = report.slices[index], _LEFT + place * (side + 5)
        mark = domain_mark(entry)
        where = f"slice {own.index(index) + 1}"
        if entry.position is not None:
            where += f", {entry.position:.1f} mm"
        lines = [
            f"{entry.score:.2f} {entry.grade} ({entry.low:.1f} ... {entry.high:.1f})"
            + (f", {mark}" if mark else ""),
            f"{where}, {framed(Path(entry.path).name, entry.frame)}",
        ]
        _write(figure, left, top + _LINE, [_fitted(line, side, 7) for line in lines])
        axes = _add_axes(figure, left, top + 3 * _LINE + 1, side, side)
        axes.imshow(shade(report.refs[index].load(), *_WINDOW), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()


def _draw_table(figure: Any, top: float, slices: Sequence[SliceScore]) -> None:
    """Draw the figures of the slices that are not left out as novel."""
    kept = [entry for entry in slices if entry.in_domain is not False]
    rows = [("score", 2, [entry.score for entry in kept])]
    if site := [entry.site_score for entry in kept if entry.site_score is not None]:
        rows.append(("site score", 2, site))
    for kind in FIGURES:
        measured = [getattr(entry.figures, kind.name, None) for entry in kept]
        rows.append((kind.title, kind.digits, [v for v in measured if v is not None]))
    headings = ("Slices not left out", "mean", "lowest", "highest", "slices")
    columns = [[heading] for heading in headings]
    for title, digits, values in rows:
        numbers = [float(np.mean(values)), min(values), max(values)] if values else []
        cells = [f"{number:.{digits}f}" for number in numbers] or ["-"] * 3
        for column, cell in zip(columns, (title, *cells, str(len(values))), strict=True):
            column.append(cell)
    _write(figure, _LEFT, top, columns[0][:1], weight="bold")
    _write(figure, _LEFT, top + _LINE, columns[0][1:])
    for right, column in zip((48, 62, 76, 88), columns[1:], strict=True):
        _write(figure, _LEFT + right - 5, top, column, ha="right")


def _draw_notes(
    figure: Any, top: float, report: SeriesReport, slices: Sequence[SliceScore]
) -> None:
    """Draw exceeded limits, shares of marked slices, and other notes of the table of scores."""
    marks = [domain_mark(entry) for entry in slices]
    outside, novel, edge = (
        f"{mark} {marks.count(mark)} ({marks.count(mark) / len(marks):.0%})"
        for mark in (OUTSIDE, "novel", EDGE)
    )
    limits = report.limits.only(slices[0].series).sentences if report.limits else []
    lines = [  # those at the end are left out if there are too many
        *site_lines(slices, report.site_map),
        *limits,
        f"Of {counted(len(slices), 'slice')} left out: {outside}, {novel}; not left out: {edge}.",
        *domain_lines(slices),
        *exposure_lines([entry.acquisition for entry in slices]),
        *figure_lines((entry.figures, entry.remark) for entry in slices),
        *([] if report.unjudged is None else [report.unjudged]),
    ]
    wrapped = [part for line in lines for part in _wrapped(line, _HALF, 6)]
    if len(wrapped) > _NOTES:
        wrapped[_NOTES - 1 :] = ["... more lines in the table of `clinreadnet score`"]
    _write(figure, _MIDDLE, top, wrapped, size=6)


def _draw_provenance(figure: Any, top: float, session: Mapping[str, Any]) -> None:
    """Draw methods, and what made the scores."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    today = date.today() if epoch is None else datetime.fromtimestamp(int(epoch), UTC).date()
    verified = "verified" if session["verified"] else "not verified"
    made = (
        f"Made on {today.isoformat()} by ClinReadNet {__version__}, {session['backend']} in "
        f"{session['precision']} ({', '.join(map(str, session['backend_notes'])) or 'no notes'}), "
        f"{verified} bundle of {session['clinreadnet_version']}."
    )
    weights = f"Weights {session['preset']}, SHA-256 {session['weights_sha256']}"
    lines = [*_wrapped(METHODS, _WIDTH, 6), *_wrapped(made, _WIDTH, 6)[:2], weights]
    _write(figure, _LEFT, top, lines, size=6, color="0.3")


def _add_axes(figure: Any, left: float, top: float, width: float, height: float) -> Any:
    """Add axes at a place in mm from the left and the top of the page."""
    wide, high = _PAGE
    box = (left / wide, 1 - (top + height) / high, width / wide, height / high)
    return figure.add_axes(box)


def _draw_line(figure: Any, left: float, right: float, top: float) -> None:
    from matplotlib.lines import Line2D

    x, y = (left / _PAGE[0], right / _PAGE[0]), 1 - top / _PAGE[1]
    figure.add_artist(Line2D(x, (y, y), color="0", linewidth=0.6))


def _write(
    figure: Any, left: float, top: float, lines: Sequence[str], size: float = 7, **style: Any
) -> None:
    """Write lines, the first with its upper end at ``top``; ``left`` and ``top`` in mm."""
    for number, line in enumerate(lines):
        y = 1 - (top + number * _LEADING * size * _POINT) / _PAGE[1]
        figure.text(left / _PAGE[0], y, _drawable(line), size=size, va="top", **style)


def _fitted(line: str, width: float, size: float) -> str:
    """Return a line that fits into ``width`` mm; its middle gives way."""
    line = shown = _drawable(line)
    keep = len(line)
    while keep > 1 and _width(shown, size) > width:
        keep -= 1
        shown = f"{line[: keep - keep // 2]}…{line[len(line) - keep // 2 :]}"
    return shown


def _wrapped(text: str, width: float, size: float) -> list[str]:
    """Return lines that fit into ``width`` mm."""
    lines: list[str] = []
    for word in _drawable(text).split():
        if lines and _width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(_fitted(word, width, size))
    return lines


def _width(line: str, size: float) -> float:
    """Return the width of a line in mm."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=_FONT, size=size)
    return float(text_to_path.get_text_width_height_descent(line, font, False)[0]) * _POINT


def _drawable(text: str) -> str:
    """Escape the characters that a terminal or the font cannot show."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont(_FONT)).get_charmap()
    return "".join(
        character if ord(character) in known else character.encode("unicode_escape").decode("ascii")
        for character in visible(text)
    )
