"""Draw figures as inline SVG, with the colours of the page's style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.recommend import Recommendation
from bench.results import RecordedRun
from bench.rows import BenchRow

WIDTH, HEIGHT = 520, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 20, 16, 48
_LETTER, _LINE = 6.6, 14
"""Width of a letter and height of a line in labels, in units of the figure."""
KINDS = ("best", "ours", "peer", "reference", "limit")
"""Classes of the style sheet: recommended artifact, other artifacts, alternatives, network in
PyTorch, and limits."""


@dataclass(frozen=True)
class Series:
    """Named points (x, y) with positive coordinates, drawn as a line or as dots.

    Attributes:
        name: label beside the points.
        points: points to draw.
        kind: one of ``KINDS``. A limit is a dashed line without dots.
        line: whether to join the points by a line.
        spans: bounds of the interval along x for each point; empty for none.
        dashes: SVG dash pattern of a limit.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    kind: str = "ours"
    line: bool = False
    spans: tuple[tuple[float, float], ...] = ()
    dashes: str = "6 4"


def latency_accuracy(run: RecordedRun, chosen: Recommendation) -> str:
    """Plot the time of one slice, with its interval, against the worst difference of a score."""
    rows = [row for row in run.rows if (row.batch, row.clock) == (1, "host")]
    series = [
        Series(
            row.title,
            ((1e3 * row.p50, max(row.score_difference, 1e-9)),),
            _kind(row, chosen),
            spans=((1e3 * row.interval[0], 1e3 * row.interval[1]),),
        )
        for row in rows
    ]
    if rows and (bound := chosen.bounds.get("score")) is not None:
        ends = [end for drawn in series for span in drawn.spans for end in span]
        line = ((min(ends), bound), (max(ends), bound))
        series.append(Series(f"budget, {bound:g}", line, "limit", line=True))
    return chart(
        "Latency and accuracy",
        series,
        "one slice, ms (p50, 95 %)",
        "worst score difference, grades",
    )


def throughput(run: RecordedRun, chosen: Recommendation) -> str:
    """Plot slices per second against the batch, host memory to host memory."""
    series = []
    for title in dict.fromkeys(row.title for row in run.rows):
        rows = [row for row in run.rows if (row.title, row.clock) == (title, "host")]
        points = sorted((float(row.batch), row.throughput) for row in rows)
        kind = _kind(rows[0], chosen) if rows else "ours"
        series.append(Series(title, tuple(points), kind, line=True))
    batches = sorted({x for line in series for x, _ in line.points})
    return chart("Throughput", series, "batch", "slices/s (p50)", batches)


def arrivals(run: RecordedRun) -> str:
    """Plot the time from a slice's arrival to its score against the rate of arrivals."""
    series = []
    served = [(row, row.rate) for row in run.arrivals if row.rate is not None]
    for title in dict.fromkeys(row.title for row, _ in served):
        pairs = [(rate, row) for row, rate in served if row.title == title]
        pairs.sort(key=lambda pair: pair[0])
        points = tuple((rate, 1e3 * row.p50) for rate, row in pairs)
        series.append(Series(f"{title}, p50", points, line=True))
        tail = tuple((rate, 1e3 * row.tail) for rate, row in pairs if row.tail is not None)
        if tail:
            series.append(Series(f"{title}, p99", tail, "peer", line=True))
    return chart("Latency and arrivals", series, "slices/s that arrive", "arrival to score, ms")


def roofline(run: RecordedRun, chosen: Recommendation) -> str:
    """Plot operations per second against operations per byte, with the machine's limits."""
    rows = [row for row in run.rows if row.clock == fastest_clock(run.rows)]
    if not rows:
        return chart("Roofline", [], "", "")
    intensity = [row.flops / row.bytes for row in rows]
    copy = run.rates["copy"]
    low, high = min(intensity) / 8, max(intensity) * 2
    series = []
    for number, (precision, rate) in enumerate(run.rates.items()):
        if precision != "copy":
            ridge = rate / copy
            knees = (low, *((ridge,) if low < ridge < high else ()), high)
            points = tuple((x, min(rate, copy * x)) for x in knees)
            dashes = f"{2 + 4 * number} 4"
            series.append(Series(f"limit, {precision}", points, "limit", True, dashes=dashes))
    for title in dict.fromkeys(row.title for row in rows):
        measured = [row for row in rows if row.title == title]
        points = tuple((row.flops / row.bytes, row.flops / row.p50) for row in measured)
        series.append(Series(title, points, _kind(measured[0], chosen)))
    return chart("Roofline", series, "FLOP per byte, at most", "FLOP/s")


def _kind(row: BenchRow, chosen: Recommendation) -> str:
    if chosen.best is not None and chosen.best.row.title == row.title and row.role == "artifact":
        return "best"
    return {"artifact": "ours", "peer": "peer"}.get(row.role, "reference")


def fastest_clock(rows: Sequence[BenchRow]) -> str:
    """Return the measured clock with the least host time."""
    clocks = {row.clock for row in rows}
    return next((c for c in ("device graph", "device", "host") if c in clocks), "host")


def chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float] | None = None,
) -> str:
    """Draw a figure with logarithmic axes and labels beside the data.

    Args:
        title: caption.
        series: data to draw. Without data, the text "not measured" is returned.
        x_label: label of the horizontal axis.
        y_label: label of the vertical axis.
        x_ticks: ticks of the horizontal axis. Default: powers of ten, or steps between them.
    """
    caption = f"<figcaption>{html.escape(title)}</figcaption>"
    points = [point for line in series for point in line.points]
    if not points:
        return f"<figure>{caption}<p>Not measured.</p></figure>"
    ends = [end for line in series for span in line.spans for end in span]
    # Labels of lines are in a margin on the right.
    margin = max((_LETTER * len(line.name) + 14 for line in series if line.line), default=0)
    right = WIDTH - _RIGHT - (margin if len(points) > len(series) else 0)
    x_axis = _Axis([*(x for x, _ in points), *ends], _LEFT, right)
    y_axis = _Axis([y for _, y in points], HEIGHT - _BOTTOM, _TOP)
    label = html.escape(f"{title}: {y_label} against {x_label}", quote=True)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">']
    last = -math.inf
    for value in x_axis.ticks if x_ticks is None else x_ticks:
        if (x := x_axis(value)) < last + 40:  # its label would overlap the previous one
            continue
        last = x
        parts.append(
            f'<path class="grid" d="M{x:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>'
            f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
            f"{_number(value)}</text>"
        )
    for value in y_axis.ticks:
        y = y_axis(value)
        parts.append(
            f'<path class="grid" d="M{_LEFT} {y:.1f}H{right:.1f}"/>'
            f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>'
        )
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="{(_LEFT + right) / 2:.1f}" y="{HEIGHT - 8}" text-anchor="middle">'
        f'{html.escape(x_label)}</text><text transform="translate(13 {middle}) rotate(-90)" '
        f'text-anchor="middle">{html.escape(y_label)}</text>'
    )
    taken: list[tuple[float, float, float]] = []
    for line in series:
        places = [(x_axis(x), y_axis(y)) for x, y in line.points]
        if line.line and len(places) > 1:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            dashes = f' stroke-dasharray="{line.dashes}"' if line.kind == "limit" else ""
            parts.append(f'<path class="line {line.kind}"{dashes} d="M{path}"/>')
        for (low, high), (_, y) in zip(line.spans, places, strict=False):
            start, end = x_axis(low), x_axis(high)
            parts.append(f'<path class="line {line.kind}" d="M{start:.1f} {y:.1f}H{end:.1f}"/>')
            taken.append((start, end, y))
        if line.kind != "limit":
            for (x, y), (a, b) in zip(places, line.points, strict=True):
                text = html.escape(f"{line.name}: {_number(a)}, {_number(b)}")
                parts.append(
                    f'<circle class="dot {line.kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5">'
                    f"<title>{text}</title></circle>"
                )
                taken.append((x - 6, x + 6, y))
    parts += _labels(series, x_axis, y_axis, taken)
    return f"<figure>{caption}{''.join(parts)}</svg></figure>"


def _labels(
    series: Sequence[Series], x_axis: _Axis, y_axis: _Axis, taken: list[tuple[float, float, float]]
) -> list[str]:
    """Place the name of each series beside its last point, without overlaps."""
    parts = []
    ends = [(x_axis(line.points[-1][0]), y_axis(line.points[-1][1]), line) for line in series]
    for x, y, line in sorted(ends, key=lambda end: end[1]):
        width = _LETTER * len(line.name)
        steps = [sign * step for step in range(0, HEIGHT, 4) for sign in (1, -1)]
        sides = (x + 9,) if line.line else (x + 9, x - 9 - width)
        places = [(at, y + dy) for dy in steps for at in sides]
        at, level = next(
            (
                (at, level)
                for at, level in places
                if _LEFT <= at
                and at + width <= WIDTH
                and _TOP <= level <= HEIGHT - _BOTTOM
                and not any(
                    at < end and start < at + width and abs(level - other) < _LINE
                    for start, end, other in taken
                )
            ),
            places[0],
        )
        taken.append((at, at + width, level))
        if abs(level - y) > _LINE:
            near = at if at > x else at + width
            parts.append(f'<path class="leader" d="M{x:.1f} {y:.1f}L{near:.1f} {level:.1f}"/>')
        parts.append(
            f'<text class="name {line.kind}" x="{at:.1f}" y="{level + 4:.1f}">'
            f"{html.escape(line.name)}</text>"
        )
    return parts


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
        """Return ticks: powers of ten, or steps between them on a short axis."""
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        ticks: list[float] = []
        for steps in ((1.0,), (1.0, 2.0, 5.0), tuple(i / 4 for i in range(4, 40))):
            ticks = [s * 10.0**d for d in decades for s in steps]
            ticks = [v for v in ticks if self._low <= math.log10(v) <= self._high]
            if len(ticks) >= 3:
                break
        return ticks[:: math.ceil(len(ticks) / 8)] if ticks else []


def _number(value: float) -> str:
    if 1e-2 <= value < 1e5:
        return f"{value:.4g}"
    return f"{value:.0e}" if f"{value:.0e}"[0] != "0" else "0"
