"""Summarise scores by scanner and protocol, with dose and drift: `clinreadnet summarize`.

Slices of a series resemble each other, so a series counts once, with the mean of its slices. Slices
that are marked as novel, and slices without a score, are left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clinreadnet.errors import InputError, visible
from clinreadnet.files import AnyPath
from clinreadnet.scoring.control_chart import FEW, ControlChart, individuals_chart
from clinreadnet.scoring.score_file import StoredScore, read_scores
from clinreadnet.spec import RESEARCH_USE

GROUPINGS: tuple[str, ...] = ("scanner", "protocol", "kernel")
"""Columns to group by."""

CONFIDENCE = 0.95

_MOST_DEGREES = 1000
_ROWS_AT_ONCE = 10_000
_LINES = 50  # points outside the limits that are printed; --json gives all


@dataclass(frozen=True)
class SeriesValues:
    """What a series adds to its group.

    Attributes:
        score: mean over its slices, 0 bad ... 4 excellent.
        ctdi_vol_mgy: mean CTDIvol in mGy of its slices that state one; None where none does.
        acquired: earliest date of its slices; None where none is stated.
    """

    score: float
    ctdi_vol_mgy: float | None
    acquired: str | None


@dataclass(frozen=True)
class Estimate:
    """Mean over n series.

    Attributes:
        n: number of series.
        mean: of their values.
        low: lower end of the 95 % confidence interval of the mean; None where n is 1.
        high: upper end of it.
        min: lowest value.
        max: highest value.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    min: float
    max: float


@dataclass(frozen=True)
class Day:
    """A point of the control chart: the mean ``score`` of the ``series`` of one date."""

    date: str
    series: int
    score: float


@dataclass(frozen=True)
class Group:
    """Series of one scanner, protocol or kernel.

    Attributes:
        key: value of each column of ``by``; None where the header did not state it.
        slices: slices with a score, with those marked as novel.
        novel: slices marked as novel, which are left out.
        series: those with a slice that is not left out.
    """

    key: tuple[str | None, ...]
    slices: int
    novel: int
    series: tuple[SeriesValues, ...]

    @property
    def quality(self) -> Estimate | None:
        """Mean score of the series; None where all slices are marked as novel."""
        return estimate([one.score for one in self.series])

    @property
    def ctdi_vol_mgy(self) -> Estimate | None:
        """Mean CTDIvol in mGy of the series that state one; None where none does."""
        stated = [one.ctdi_vol_mgy for one in self.series if one.ctdi_vol_mgy is not None]
        return estimate(stated)

    @property
    def days(self) -> list[Day]:
        """Points of the control chart, in order of time."""
        scores: dict[str, list[float]] = {}
        for one in self.series:
            if one.acquired is not None:
                scores.setdefault(one.acquired, []).append(one.score)
        return [
            Day(date, len(scores[date]), math.fsum(scores[date]) / len(scores[date]))
            for date in sorted(scores)
        ]

    @property
    def chart(self) -> ControlChart | None:
        """Individuals chart of the means of days; None with fewer than two days."""
        days = self.days
        return individuals_chart([day.score for day in days]) if len(days) > 1 else None

    @property
    def name(self) -> str:
        """The key as one line of text."""
        return ", ".join(map(stated, self.key))


@dataclass(frozen=True)
class Summary:
    """Result of `summarize`.

    Attributes:
        by: columns that make the groups.
        slices: number of rows.
        not_scored: rows without a score.
        weights_sha256: of the network that scored; None where the files do not say.
        groups: by key; values that are not stated come last.
    """

    by: tuple[str, ...]
    slices: int
    not_scored: int
    weights_sha256: str | None
    groups: tuple[Group, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "by": list(self.by),
            "slices": self.slices,
            "not_scored": self.not_scored,
            "novel": sum(group.novel for group in self.groups),
            "weights_sha256": self.weights_sha256,
            "confidence": CONFIDENCE,
            "groups": [_group_to_dict(self.by, group) for group in self.groups],
            "research_use": RESEARCH_USE,
        }


def summarize(
    paths: Sequence[AnyPath],
    by: Sequence[str] = ("scanner", "protocol"),
    *,
    advance: Callable[[int], None] = lambda rows: None,
) -> Summary:
    """Summarise files of scores by scanner, protocol or kernel.

    Args:
        paths: files of `score-archive` (Parquet) or `score --csv`. A series is in one of them only.
        by: columns that make the groups, some of ``GROUPINGS``.
        advance: called with the number of rows read since the last call.

    Returns:
        The summary.

    Raises:
        InputError: no such column to group by, a file as in `read_scores`, a series in two files,
            files that two networks scored, or no slice with a score.
    """
    by = tuple(dict.fromkeys(by))
    if not by or not set(by) <= set(GROUPINGS):
        raise InputError(f"by={','.join(by)}: group by {', '.join(GROUPINGS)}")
    found = _Sums(by)
    weights: dict[str, AnyPath] = {}
    file_of: dict[str, AnyPath] = {}
    for path in paths:
        rows, own = read_scores(path)
        if own is not None:
            weights.setdefault(own, path)
        if len(weights) > 1:
            first, second = weights.values()
            raise InputError(
                f"{second}: other weights scored it than {first}, so the scores cannot be "
                "compared; summarize them one by one"
            )
        series = found.add(rows, advance)
        if twice := sorted(series & file_of.keys()):
            raise InputError(
                f"{path}: series {twice[0]} is also in {file_of[twice[0]]}; give each series once"
            )
        file_of |= dict.fromkeys(series, path)
    if found.slices == 0:
        raise InputError(f"{paths[0]}: has no rows; give a file with scores")
    if found.not_scored == found.slices:
        raise InputError(f"{paths[0]}: none of {found.slices} slices has a score")
    return Summary(by, found.slices, found.not_scored, next(iter(weights), None), found.groups())


@dataclass
class _SeriesSums:
    """Sums over the slices of a series."""

    slices: int = 0
    novel: int = 0
    score: float = 0.0
    dose: float = 0.0
    with_dose: int = 0
    acquired: str | None = None

    def add(self, row: StoredScore, score: float) -> None:
        self.slices += 1
        if row.in_domain is False:
            self.novel += 1
            return
        self.score += score
        if row.acquisition.ctdi_vol_mgy is not None:
            self.dose += row.acquisition.ctdi_vol_mgy
            self.with_dose += 1
        date = row.acquisition.acquired
        if date is not None and (self.acquired is None or date < self.acquired):
            self.acquired = date

    def values(self) -> SeriesValues | None:
        """Return the means; None where all slices are left out."""
        if self.slices == self.novel:
            return None
        return SeriesValues(
            self.score / (self.slices - self.novel),
            self.dose / self.with_dose if self.with_dose else None,
            self.acquired,
        )


class _Sums:
    """What is kept of the rows of all files: a few numbers of each series."""

    def __init__(self, by: Sequence[str]) -> None:
        self._by = by
        self._series: dict[tuple[str | None, ...], dict[str, _SeriesSums]] = {}
        self.slices = 0
        self.not_scored = 0

    def add(self, rows: Iterable[StoredScore], advance: Callable[[int], None]) -> set[str]:
        """Add the rows of a file; return its series."""
        own = set()
        for row in rows:
            self.slices += 1
            if self.slices % _ROWS_AT_ONCE == 0:
                advance(_ROWS_AT_ONCE)
            if row.score is None:
                self.not_scored += 1
                continue
            own.add(row.series)
            key = tuple(getattr(row.acquisition, name) for name in self._by)
            members = self._series.setdefault(key, {})
            members.setdefault(row.series, _SeriesSums()).add(row, row.score)
        return own

    def groups(self) -> tuple[Group, ...]:
        keys = sorted(self._series, key=lambda key: [(one is None, one or "") for one in key])
        groups = []
        for key in keys:
            members = self._series[key].values()
            values = [one.values() for one in members]
            groups.append(
                Group(
                    key,
                    sum(one.slices for one in members),
                    sum(one.novel for one in members),
                    tuple(one for one in values if one is not None),
                )
            )
        return tuple(groups)


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return the mean of values [n] with its 95 % confidence interval, by Student's t.

    None where n is 0.
    """
    n = len(values)
    if n == 0:
        return None
    x = np.asarray(values, np.float64)
    mean, low, high = float(x.mean()), None, None
    if n > 1:
        reach = student_quantile(n - 1) * float(x.std(ddof=1)) / math.sqrt(n)
        low, high = mean - reach, mean + reach
    return Estimate(n, mean, low, high, float(x.min()), float(x.max()))


def student_quantile(degrees: int) -> float:
    """Return t such that Student's t lies in ``-t ... t`` with probability 0.95.

    The probability is the finite sum for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and
    26.7.4). More than 1000 degrees count as 1000, which makes t at most 0.13 % too large.

    Args:
        degrees: of freedom, at least 1.
    """
    degrees = min(degrees, _MOST_DEGREES)
    odd = degrees % 2
    k = np.arange(1 + odd, degrees - 1, 2)
    ratios = np.cumprod(np.concatenate([[1.0], k / (k + 1)]))  # 1, 1/2, 3/8 ...; 1, 2/3, 8/15 ...

    def inside(t: float) -> float:
        angle = math.atan(t / math.sqrt(degrees))
        powers = math.cos(angle) ** np.arange(odd, degrees - 1 + odd, 2)
        terms = float((ratios[: len(powers)] * powers).sum())  # none of 1 degree
        if odd:
            return 2 / math.pi * (angle + math.sin(angle) * terms)
        return math.sin(angle) * terms

    low, high = 0.0, 16.0  # of one degree it is 12.7
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < CONFIDENCE else (low, middle)
    return (low + high) / 2


def stated(value: str | None) -> str:
    """Return a value of a group's key as visible text."""
    return "not stated" if value is None else visible(value)


def _group_to_dict(by: Sequence[str], group: Group) -> dict[str, Any]:
    days, chart = group.days, group.chart
    quality, dose = group.quality, group.ctdi_vol_mgy
    return {
        **dict(zip(by, group.key, strict=True)),
        "slices": group.slices,
        "novel": group.novel,
        "series": len(group.series),
        "quality": None if quality is None else asdict(quality),
        "ctdi_vol_mgy": None if dose is None else asdict(dose),
        "undated_series": sum(one.acquired is None for one in group.series),
        "days": [asdict(day) for day in days],
        "chart": None if chart is None else _chart_to_dict(chart, days),
    }


def _chart_to_dict(chart: ControlChart, days: Sequence[Day]) -> dict[str, Any]:
    return {
        "centre": chart.centre,
        "lower": chart.lower,
        "upper": chart.upper,
        "outside": [days[index].date for index in chart.outside],
        "runs": [[days[first].date, days[last].date] for first, last in chart.runs],
    }


_Charted = tuple[Group, ControlChart | None]


def print_summary(summary: Summary, console: Console) -> None:
    """Print the table of groups, the table of drift, and what is out of control."""
    console.print(_quality_table(summary))
    charts = [(group, group.chart) for group in summary.groups]
    if any(chart is not None for _, chart in charts):
        console.print(_drift_table(summary, charts))
    for line in _notes(summary, charts):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(RESEARCH_USE, highlight=False, soft_wrap=True)


def _table(title: str, by: Sequence[str], headings: Sequence[str]) -> Table:
    table = Table(title=Text(title), title_justify="left")
    table.add_column(", ".join(by), overflow="fold", min_width=16)
    for heading in headings:
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))
    return table


def _quality_table(summary: Summary) -> Table:
    headings = ("series", "slices", "quality", f"{CONFIDENCE:.0%}", "CTDIvol (mGy)")
    table = _table("Quality (0 bad ... 4 excellent) and dose", summary.by, headings)
    for group in summary.groups:
        quality, dose = group.quality, group.ctdi_vol_mgy
        table.add_row(
            Text(group.name),
            str(len(group.series)),
            str(group.slices - group.novel),
            "" if quality is None else f"{quality.mean:.2f}",
            "" if quality is None else _span(quality.low, quality.high),
            "" if dose is None else f"{dose.mean:.1f}",
        )
    return table


def _drift_table(summary: Summary, charts: Sequence[_Charted]) -> Table:
    headings = ("days", "limits", "outside", "runs")
    table = _table("Drift: control chart of the means of days", summary.by, headings)
    for group, chart in charts:
        if chart is not None:
            table.add_row(
                Text(group.name),
                str(len(group.days)),
                _span(chart.lower, chart.upper),
                str(len(chart.outside)),
                str(len(chart.runs)),
            )
    return table


def _span(low: float | None, high: float | None) -> Text:
    shown = low is not None and high is not None
    return Text(f"{low:.2f} ... {high:.2f}" if shown else "", no_wrap=True)


def _notes(summary: Summary, charts: Sequence[_Charted]) -> list[str]:
    """Return what is out of control, and what is left out."""
    lines = [line for group, chart in charts for line in _alarms(group, chart)]
    if len(lines) > _LINES:
        lines[_LINES:] = [f"and {len(lines) - _LINES} more; --json gives all"]
    if novel := sum(group.novel for group in summary.groups):
        lines.append(f"{novel} of {summary.slices} slices are marked as novel and left out")
    if summary.not_scored:
        lines.append(f"{summary.not_scored} of {summary.slices} slices have no score")
    dates = [one.acquired for group in summary.groups for one in group.series]
    if undated := dates.count(None):
        lines.append(f"{undated} of {len(dates)} series have no date and are in no control chart")
    if any(chart is not None and len(group.days) < FEW for group, chart in charts):
        lines.append(f"limits from fewer than {FEW} days are uncertain")
    return lines


def _alarms(group: Group, chart: ControlChart | None) -> list[str]:
    if chart is None:
        return []
    days = group.days
    lines = []
    for index in chart.outside:
        day = days[index]
        side, limit = ("below", chart.lower) if day.score < chart.lower else ("above", chart.upper)
        lines.append(f"{group.name}: {day.date}: {day.score:.2f} is {side} {limit:.2f}")
    for first, last in chart.runs:
        side = "below" if days[first].score < chart.centre else "above"
        lines.append(
            f"{group.name}: {days[first].date} to {days[last].date}: {last - first + 1} days in "
            f"a row {side} {chart.centre:.2f}"
        )
    return lines
