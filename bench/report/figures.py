"""Figures as inline SVG: no script, colours from the page's style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.results import RecordedRun
from bench.rows import BenchRow

WIDTH, HEIGHT = 640, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 16, 16, 52
COLOURS = 10
"""Classes ``c0`` ... ``c9`` of the style sheet. Series past them have the colours again, hollow."""


@dataclass(frozen=True)
class Series:
    """Named points (x, y) above zero, joined by a line or drawn as dots.

    With ``limit`` they are drawn as a dashed line without dots.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    line: bool = False
    limit: bool = False


def latency_accuracy(run: RecordedRun) -> str:
    """Plot the time of one slice against the worst difference of a score."""
    rows = [row for row in run.rows if (row.batch, row.clock) == (1, "host")]
    series = [
        Series(row.title, ((1e3 * row.p50, max(row.score_difference, 1e-9)),)) for row in rows
    ]
    return chart(
        "Latency and accuracy", series, "one slice, ms (p50)", "worst score difference, grades"
    )


def throughput(run: RecordedRun) -> str:
    """Plot slices per second against the batch, host memory to host memory."""
    series = []
    for title in dict.fromkeys(row.title for row in run.rows):
        rows = [row for row in run.rows if (row.title, row.clock) == (title, "host")]
        points = sorted((float(row.batch), row.throughput) for row in rows)
        series.append(Series(title, tuple(points), line=True))
    batches = sorted({x for one in series for x, _ in one.points})
    return chart("Throughput", series, "batch", "slices/s (p50)", batches)


def arrivals(run: RecordedRun) -> str:
    """Plot the time from a slice's arrival to its score against the rate of arrivals."""
    series = []
    served = [(row, row.rate) for row in run.arrivals if row.rate is not None]
    for title in dict.fromkeys(row.title for row, _ in served):
        here = [(rate, row) for row, rate in served if row.title == title]
        here.sort(key=lambda pair: pair[0])
        points = tuple((rate, 1e3 * row.p50) for rate, row in here)
        series.append(Series(f"{title}, p50", points, line=True))
        tail = tuple((rate, 1e3 * row.tail) for rate, row in here if row.tail is not None)
        if tail:
            series.append(Series(f"{title}, p99", tail, line=True))
    return chart("Latency and arrivals", series, "slices/s that arrive", "arrival to score, ms")


def roofline(run: RecordedRun) -> str:
    """Plot operations per second against operations per byte, with the machine's limits."""
    rows = [row for row in run.rows if row.clock == fastest_clock(run.rows)]
    if not rows:
        return chart("Roofline", [], "", "")
    intensity = [row.flops / row.bytes for row in rows]
    copy = run.rates["copy"]
    low, high = min(intensity) / 8, max(intensity) * 2
    series = []
    for precision, rate in run.rates.items():
        if precision != "copy":
            ridge = rate / copy
            knees = (low, *((ridge,) if low < ridge < high else ()), high)
            points = tuple((x, min(rate, copy * x)) for x in knees)
            series.append(Series(f"limit, {precision}", points, line=True, limit=True))
    for title in dict.fromkeys(row.title for row in rows):
        points = tuple(
            (row.flops / row.bytes, row.flops / row.p50) for row in rows if row.title == title
        )
        series.append(Series(title, points))
    return chart("Roofline", series, "FLOP per byte, at most", "FLOP/s")


def fastest_clock(rows: Sequence[BenchRow]) -> str:
    """Return the clock that includes the least host time."""
    clocks = {row.clock for row in rows}
    return next((c for c in ("device graph", "device", "host") if c in clocks), "host")


def chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float] | None = None,
) -> str:
    """Return a figure with logarithmic axes and a legend; without points, that it is not measured.

    Args:
        title: caption.
        series: points to draw.
        x_label: label of the horizontal axis.
        y_label: label of the vertical axis.
        x_ticks: ticks of the horizontal axis; default powers of ten or steps between them.
    """
    caption = f"<figcaption>{html.escape(title)}</figcaption>"
    points = [point for one in series for point in one.points]
    if not points:
        return f"<figure>{caption}<p>Not measured.</p></figure>"
    x_axis = _Axis([x for x, _ in points], _LEFT, WIDTH - _RIGHT)
    y_axis = _Axis([y for _, y in points], HEIGHT - _BOTTOM, _TOP)
    label = html.escape(f"{title}: {y_label} against {x_label}", quote=True)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">']
    for value in x_axis.ticks if x_ticks is None else x_ticks:
        x = x_axis(value)
        parts.append(
            f'<path class="grid" d="M{x:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>'
            f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{_number(value)}</text>"
        )
    for value in y_axis.ticks:
        y = y_axis(value)
        parts.append(
            f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>'
        )
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        f'{html.escape(x_label)}</text><text transform="translate(14 {middle}) rotate(-90)" '
        f'text-anchor="middle">{html.escape(y_label)}</text>'
    )
    legend = []
    coloured = [one.name for one in series if not one.limit]
    for one in series:
        colour = "limit"
        if not one.limit:
            again, number = divmod(coloured.index(one.name), COLOURS)
            colour = f"c{number}" + (" hollow" if again else "")
        places = [(x_axis(x), y_axis(y)) for x, y in one.points]
        if one.line and len(places) > 1:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.append(f'<path class="line {colour}" d="M{path}"/>')
        if not one.limit:
            for (x, y), (a, b) in zip(places, one.points, strict=True):
                text = html.escape(f"{one.name}: {_number(a)}, {_number(b)}")
                parts.append(
                    f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="5">'
                    f"<title>{text}</title></circle>"
                )
        legend.append(f'<li class="{colour}">{html.escape(one.name)}</li>')
    return f"<figure>{caption}{''.join(parts)}</svg><ul>{''.join(legend)}</ul></figure>"


class _Axis:
    """A logarithmic axis."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        margin = max(0.05 * (high - low), 0.08)
        self._low, self._high = low - margin, high + margin
        self._start, self._end = start, end
        self.ticks = self._choose()

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def _choose(self) -> list[float]:
        """Return powers of ten, or steps between them if the axis is short."""
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        found: list[float] = []
        for steps in ((1.0,), (1.0, 2.0, 5.0), tuple(i / 4 for i in range(4, 40))):
            found = [s * 10.0**d for d in decades for s in steps]
            found = [v for v in found if self._low <= math.log10(v) <= self._high]
            if len(found) >= 3:
                break
        return found[:: math.ceil(len(found) / 8)] if found else []


def _number(value: float) -> str:
    if 1e-2 <= value < 1e5:
        return f"{value:.4g}"
    return f"{value:.0e}" if f"{value:.0e}"[0] != "0" else "0"
