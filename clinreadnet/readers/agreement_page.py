"""The page of `clinreadnet agree`: tables and plots in one file, without scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clinreadnet.errors import counted
from clinreadnet.files import whole_file
from clinreadnet.page import page, table, text
from clinreadnet.readers.agreement import SCORE, Agreement, Pair, unit
from clinreadnet.readers.agreement_table import (
    AMONG,
    MOST_PAIRS,
    NAMES,
    limits_of,
    number,
    signed,
    span,
    subject,
)
from clinreadnet.readers.statistics import Floats
from clinreadnet.scoring.estimate import CONFIDENCE

_WIDTH, _HEIGHT = 480.0, 320.0
_LEFT, _RIGHT, _BOTTOM = 52.0, 20.0, 40.0  # margins of axes
_NAME = 150.0  # width of the names of pairs
_ROW = 22.0
_INTERVAL = f"n:{CONFIDENCE:.0%}"


def write_agreement_page(result: Agreement, target: Path) -> None:
    """Write the page atomically.

    Raises:
        InputError: ``target`` cannot be written.
    """
    with whole_file(target) as temporary:
        temporary.write_text(agreement_page(result), encoding="utf-8")


def agreement_page(result: Agreement) -> str:
    """Return the page as HTML."""
    shown = result.pairs[:MOST_PAIRS]
    weights = result.reading.weights_sha256
    by = "" if weights is None else f" Scored with weights <code>{text(weights[:12])}</code>."
    parts = [
        f"<p>{text(subject(result))}. {CONFIDENCE:.0%} intervals: bootstrap over "
        f"{unit(result.by_patient)}.{by}</p>",
        *(f"<p class=note>{text(line)}.</p>" for line in result.notes),
    ]
    if result.among:
        parts += [
            "<h2>Readers with each other</h2>",
            table(
                ("measure", "n:value", _INTERVAL),
                [(AMONG[k], number(v["value"]), span(v)) for k, v in result.among.items()],
            ),
            "<p class=note>kappa: quadratic weights, mean over pairs of readers. ICC(2,1): "
            f"absolute agreement of single readers, on {counted(result.complete, 'slice')} that "
            "all graded. "
            "alpha: Krippendorff's, ordinal.</p>",
        ]
    parts += [
        "<h2>Score with the readers</h2>",
        table(
            ("measure", "n:score", _INTERVAL, "n:a reader"),
            [
                (NAMES[k], number(v["value"]), span(v), number(result.reader.get(k, np.nan)))
                for k, v in result.score.items()
            ],
        ),
        "<p class=note>Score and mean grade, on the site's scale; kappa: rounded score and each "
        "reader, mean. A reader: each reader and the mean grade of the others, mean; kappa: of "
        "pairs.</p>",
        f"<div class=plots>{_scatter(result)}{_bland_altman(result)}{_kappas(shown)}"
        f"{_limits(shown)}</div>",
        "<h2>Pairs</h2>",
        table(
            ("pair", "n:slices", "n:kappa", "n:bias", "n:limits of agreement"),
            [
                (
                    text(_name(pair)),
                    str(pair.slices),
                    number(pair.kappa),
                    signed(pair.bias),
                    limits_of(pair.low, pair.high),
                )
                for pair in shown
            ],
        ),
        "<p class=note>Bias: mean of second minus first on the site's scale; limits: bias ± 1.96 "
        "standard deviations.</p>",
    ]
    if len(shown) < len(result.pairs):
        parts.append(f"<p class=note>The first {len(shown)} of {len(result.pairs)} pairs.</p>")
    if result.groups:
        parts += ["<h2>Score by group</h2>", _groups(result)]
    return page(
        "agreement of readers",
        "Agreement of readers with each other and with the score",
        "\n".join(parts),
    )


def _groups(result: Agreement) -> str:
    rows = []
    for group in result.groups:
        cells = [f"{group.by} {text(group.name)}", str(group.slices), str(group.clusters)]
        score = group.score
        if score is None:
            rows.append([*cells, "too few", "", "", ""])
            continue
        srocc, mae = score["srocc"], score["mae"]
        rows.append([*cells, number(srocc["value"]), span(srocc), number(mae["value"]), span(mae)])
    headings = ("group", "n:slices", f"n:{unit(result.by_patient)}", "n:SROCC", _INTERVAL)
    return table((*headings, "n:MAE", _INTERVAL), rows)


def _scatter(result: Agreement) -> str:
    ends = sorted((result.reading.labels.scale.bad, result.reading.labels.scale.excellent))
    axes = _Axes(ends, ends)
    return _figure(
        "Score, on the site's scale, and mean grade of each slice",
        [
            *axes.frame("mean grade", "score"),
            axes.line(ends[0], ends[0], ends[1], ends[1], "equal"),
            *axes.dots(result.mean_grade, result.scaled_score),
        ],
    )


def _bland_altman(result: Agreement) -> str:
    scale = result.reading.labels.scale
    ends = sorted((scale.bad, scale.excellent))
    difference = result.scaled_score - result.mean_grade
    bias, reach = difference.mean(), 1.96 * difference.std(ddof=1)
    most = _half_up(max(float(np.abs(difference).max()), abs(bias) + reach))
    axes = _Axes(ends, [-most, most])
    levels = (bias - reach, bias, bias + reach)
    return _figure(
        f"Bland-Altman: score minus mean grade, bias {bias:+.2f}, limits "
        f"{limits_of(bias - reach, bias + reach)}",
        [
            *axes.frame("mean of score and mean grade", "score - mean grade"),
            *(axes.line(ends[0], level, ends[1], level, "equal") for level in levels),
            *axes.dots((result.scaled_score + result.mean_grade) / 2, difference),
        ],
    )


def _kappas(pairs: Sequence[Pair]) -> str:
    known = [pair for pair in pairs if np.isfinite(pair.kappa)]
    least = -1.0 if any(pair.kappa < 0 for pair in known) else 0.0
    rows = [(pair, pair.kappa, pair.kappa, pair.kappa) for pair in known]
    return _rows("Quadratically weighted kappa of each pair", rows, least, 1.0)


def _limits(pairs: Sequence[Pair]) -> str:
    rows = [(p, p.low, p.bias, p.high) for p in pairs if np.isfinite(p.low)]
    most = _half_up(max([0.0, *(max(abs(low), abs(high)) for _, low, _, high in rows)]))
    return _rows("Bias and limits of agreement of each pair, second minus first", rows, -most, most)


def _rows(
    caption: str, rows: Sequence[tuple[Pair, float, float, float]], least: float, most: float
) -> str:
    """Return a figure with a row for each pair: a bar from low to high, and a dot at the value."""
    height = _ROW * len(rows) + _BOTTOM
    axes = _Axes([least, most], [0.0, 1.0], left=_NAME, height=height)
    parts = axes.across("")
    for index, (pair, low, value, high) in enumerate(rows):
        y = _ROW * (index + 0.6)
        kind = "" if pair.second == SCORE else "other "
        parts += [
            f"<text x=0 y={y + 4:.0f}>{text(_short(pair))}</text>",
            f"<line class='{kind}reach' x1={axes.x(low):.1f} x2={axes.x(high):.1f} y1={y:.1f} "
            f"y2={y:.1f} />",
            f"<circle class='{kind}dot' cx={axes.x(value):.1f} cy={y:.1f} r=5 />",
        ]
    return _figure(f"{caption}; blue: with the score", parts, height)


@dataclass(frozen=True)
class _Axes:
    """A linear mapping of values to a drawing, between the ends of its axes."""

    x_ends: Sequence[float]
    y_ends: Sequence[float]
    left: float = _LEFT
    height: float = _HEIGHT

    def x(self, value: float) -> float:
        low, high = self.x_ends
        return self.left + (_WIDTH - self.left - _RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_ends
        return self.height - _BOTTOM - (self.height - _BOTTOM - 12) * (value - low) / (high - low)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
        return (
            f"<line class={kind} x1={self.x(x1):.1f} y1={self.y(y1):.1f} x2={self.x(x2):.1f} "
            f"y2={self.y(y2):.1f} />"
        )

    def dots(self, x: Floats, y: Floats) -> list[str]:
        return [
            f"<circle class=dot cx={self.x(a):.1f} cy={self.y(b):.1f} r=4 />"
            for a, b in zip(x.tolist(), y.tolist(), strict=True)
        ]

    def across(self, name: str) -> list[str]:
        """Return the ticks across and their numbers."""
        parts = []
        foot = self.height - _BOTTOM
        for value in np.linspace(self.x_ends[0], self.x_ends[-1], 5).tolist():
            x = self.x(value)
            parts += [
                f"<line class=grid x1={x:.1f} x2={x:.1f} y1=6 y2={foot:.1f} />",
                f"<text x={x:.1f} y={foot + 17:.1f} text-anchor=middle>{value:.3g}</text>",
            ]
        middle = (self.left + _WIDTH) / 2
        return [*parts, f"<text x={middle:.0f} y={foot + 34:.0f} text-anchor=middle>{name}</text>"]

    def frame(self, across: str, up: str) -> list[str]:
        """Return the ticks of both axes, their numbers and names."""
        parts = self.across(across)
        for value in np.linspace(self.y_ends[0], self.y_ends[-1], 5).tolist():
            y = self.y(value)
            parts += [
                f"<line class=grid x1={self.left} x2={_WIDTH - _RIGHT} y1={y:.1f} y2={y:.1f} />",
                f"<text x={self.left - 6} y={y + 4:.1f} text-anchor=end>{value:.3g}</text>",
            ]
        middle = (self.height - _BOTTOM) / 2
        turned = f"transform='rotate(-90 12 {middle:.0f})' text-anchor=middle"
        return [*parts, f"<text x=12 y={middle:.0f} {turned}>{up}</text>"]


def _figure(caption: str, parts: Sequence[str], height: float = _HEIGHT) -> str:
    drawing = "\n".join(parts)
    return (
        f"<figure><figcaption>{text(caption)}</figcaption>\n<svg viewBox='0 0 {_WIDTH:.0f} "
        f"{height:.0f}' role=img aria-label='{text(caption)}'>\n{drawing}\n</svg></figure>"
    )


def _name(pair: Pair) -> str:
    return f"{pair.first} - {pair.second}"


def _short(pair: Pair, most: int = 9) -> str:
    names = (n if len(n) <= most else f"{n[: most - 1]}…" for n in (pair.first, pair.second))
    return " - ".join(names)


def _half_up(value: float) -> float:
    return max(math.ceil(2 * value) / 2, 0.5)
