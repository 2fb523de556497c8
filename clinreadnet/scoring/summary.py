"""Summarise scores by scanner and protocol, with dose and drift: `clinreadnet summarize`.

Slices of a series are similar, so a series counts once, with the mean of its slices. Slices marked
as novel and slices without a score are excluded and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from clinreadnet.data.acquisition import Acquisition
from clinreadnet.errors import InputError, counted, visible
from clinreadnet.files import AnyPath
from clinreadnet.scoring.breaches import LimitReport, SeriesLimits
from clinreadnet.scoring.control_chart import FEWEST as FEWEST_DAYS
from clinreadnet.scoring.control_chart import ControlChart, individuals_chart
from clinreadnet.scoring.ecqm import EcqmTable, check_categories, make_ecqm_table
from clinreadnet.scoring.estimate import CONFIDENCE, FEWEST, Estimate, estimate
from clinreadnet.scoring.protocol_limits import ProtocolLimits
from clinreadnet.scoring.score_file import READ_FIGURES, StoredScore, read_scores
from clinreadnet.spec import GRADE_RANGE, RESEARCH_USE

GROUPINGS: tuple[str, ...] = ("scanner", "protocol", "kernel")
"""Columns to group by."""

MEASURES: tuple[str, ...] = ("ctdi_vol_mgy", *READ_FIGURES)
"""Values of a series beside its scores."""

_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class SeriesValues:
    """Values of a series.

    Attributes:
        score: mean over its slices, 0 bad ... 4 excellent.
        ctdi_vol_mgy: mean CTDIvol in mGy over slices that state it; None if none does.
        acquired: earliest date of its slices; None if none is stated.
        noise_hu: mean noise in HU over slices with one; None without any, like the next two.
        water_diameter_cm: mean water-equivalent diameter in cm.
        ssde_mgy: mean size-specific dose estimate in mGy.
        site_score: mean grade on the scale of the site map over slices with one; None without any.
    """

    score: float
    ctdi_vol_mgy: float | None
    acquired: str | None
    noise_hu: float | None = None
    water_diameter_cm: float | None = None
    ssde_mgy: float | None = None
    site_score: float | None = None


@dataclass(frozen=True)
class Day:
    """A point of the control chart: mean ``score`` of the ``series`` of a date."""

    date: str
    series: int
    score: float


@dataclass(frozen=True)
class Group:
    """Series of one scanner, protocol or kernel.

    Attributes:
        key: value of each column of ``by``; None if the header does not state it. Scanners of one
            model are told apart by their device, in brackets after the model.
        slices: number of slices with a score, including those marked as novel.
        novel: number of slices marked as novel, which are excluded.
        series: series with at least one slice that is not excluded.
        scanners: scanners of the series, in order; None for those that no header names.
    """

    key: tuple[str | None, ...]
    slices: int
    novel: int
    series: tuple[SeriesValues, ...]
    scanners: tuple[str | None, ...]

    @property
    def quality(self) -> Estimate | None:
        """Mean score of the series; None if all slices are marked as novel."""
        return estimate([series.score for series in self.series], GRADE_RANGE)

    @property
    def ctdi_vol_mgy(self) -> Estimate | None:
        """Mean CTDIvol in mGy over series that state it; None if none does."""
        return self.mean("ctdi_vol_mgy")

    def mean(self, measure: str) -> Estimate | None:
        """Return the mean of one of ``MEASURES`` over the series with a value; None without any."""
        values = [getattr(series, measure) for series in self.series]
        return estimate([value for value in values if value is not None])

    @property
    def site_mean(self) -> float | None:
        """Mean site score of the series with one; None without any."""
        values = [series.site_score for series in self.series if series.site_score is not None]
        return fmean(values) if values else None

    @property
    def days(self) -> list[Day]:
        """Points of the control chart, in order of time."""
        scores: dict[str, list[float]] = {}
        for series in self.series:
            if series.acquired is not None:
                scores.setdefault(series.acquired, []).append(series.score)
        return [Day(date, len(own), fmean(own)) for date, own in sorted(scores.items())]

    @property
    def chart(self) -> ControlChart | None:
        """Individuals chart of the daily means; None with too few of them, or if `unnamed`."""
        days = self.days
        if len(days) < FEWEST_DAYS or self.unnamed:
            return None
        return individuals_chart([day.score for day in days], (0, GRADE_RANGE))

    @property
    def unnamed(self) -> bool:
        """Whether a value of the key is not stated, and the series can be of several scanners."""
        return None in self.key and (len(self.scanners) > 1 or None in self.scanners)

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
        weights_sha256: SHA-256 of the network's weights; None if the files do not state it.
        site_map: name of the map that made the site scores, empty if the files do not state it;
            None without site scores.
        groups: groups sorted by key; missing values come last.
        limits: the series compared with the limits of the site; None without limits.
        ecqm: size-adjusted dose and noise by category; None unless requested.
    """

    by: tuple[str, ...]
    slices: int
    not_scored: int
    weights_sha256: str | None
    groups: tuple[Group, ...]
    site_map: str | None = None
    limits: LimitReport | None = None
    ecqm: EcqmTable | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``--json``."""
        return {
            "by": list(self.by),
            "slices": self.slices,
            "not_scored": self.not_scored,
            "novel": sum(group.novel for group in self.groups),
            "weights_sha256": self.weights_sha256,
            "site_map": self.site_map,
            "confidence": CONFIDENCE,
            "fewest_series": FEWEST,
            "fewest_days": FEWEST_DAYS,
            "groups": [_group_to_dict(self.by, group) for group in self.groups],
            "limits": None if self.limits is None else self.limits.to_dict(),
            "ecqm": None if self.ecqm is None else self.ecqm.to_dict(),
            "research_use": RESEARCH_USE,
        }


def summarize(
    paths: Sequence[AnyPath],
    by: Sequence[str] = ("scanner", "protocol"),
    *,
    limits: ProtocolLimits | None = None,
    ecqm: bool = False,
    advance: Callable[[int], None] = lambda rows: None,
) -> Summary:
    """Summarise files of scores by scanner, protocol or kernel.

    Args:
        paths: files of `score-archive` (Parquet) or `score --csv`. A series must be in a single
            file.
        by: columns to group by, from ``GROUPINGS``.
        limits: limits of the site, with which each series is compared.
        ecqm: whether to make the table of `clinreadnet.scoring.ecqm`; needs ``limits``.
        advance: called with the number of rows read since the last call.

    Returns:
        The summary.

    Raises:
        InputError: a column is unknown, the limits lack what ``ecqm`` needs, a file is invalid
            (see `read_scores`) or lacks figures that are limited, a series is in two files, the
            files are from different networks or site maps, or no slice has a score.
    """
    by = tuple(dict.fromkeys(by))
    if not by or not set(by) <= set(GROUPINGS):
        raise InputError(f"by={','.join(by)}: group by {', '.join(GROUPINGS)}")
    if ecqm:
        check_categories(limits)
    checks = None if limits is None else SeriesLimits(limits)
    sums = _Sums(by, checks)
    needed = () if limits is None else limits.figures
    weights: dict[str, AnyPath] = {}
    file_of: dict[str, AnyPath] = {}
    for path in paths:
        rows, own = read_scores(path, identify=limits is not None, figures=needed)
        if own is not None:
            weights.setdefault(own, path)
        if len(weights) > 1:
            first, second = weights.values()
            raise InputError(
                f"{second}: other weights scored it than {first}, so the scores cannot be "
                "compared; summarize them one by one"
            )
        series = sums.add(rows, advance)
        if len(sums.site_maps) > 1:
            raise InputError(
                f"{path}: its site scores are of several site maps, or of another than those of "
                f"{paths[0]}, so they cannot be compared; score the slices again with one map"
            )
        if twice := sorted(series & file_of.keys()):
            raise InputError(
                f"{path}: series {twice[0]} is also in {file_of[twice[0]]}; give each series once"
            )
        file_of |= dict.fromkeys(series, path)
    if sums.slices == 0:
        raise InputError(f"{paths[0]}: has no rows; give a file with scores")
    if sums.not_scored == sums.slices:
        raise InputError(f"{paths[0]}: none of {counted(sums.slices, 'slice')} has a score")
    report = None if checks is None else checks.report()
    return Summary(
        by,
        sums.slices,
        sums.not_scored,
        next(iter(weights), None),
        sums.groups(),
        next(iter(sums.site_maps), None),
        report,
        make_ecqm_table(report) if ecqm and report is not None else None,
    )


@dataclass
class _SeriesSums:
    """Sums over the slices of a series."""

    slices: int = 0
    novel: int = 0
    score: float = 0.0
    acquired: str | None = None
    totals: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, row: StoredScore, score: float) -> None:
        self.slices += 1
        if row.in_domain is False:
            self.novel += 1
            return
        self.score += score
        values = {name: getattr(row.figures, name) for name in READ_FIGURES}
        values |= {"ctdi_vol_mgy": row.acquisition.ctdi_vol_mgy, "site_score": row.site_score}
        for name, value in values.items():
            if value is not None:
                self.totals[name] = self.totals.get(name, 0.0) + value
                self.counts[name] += 1
        date = row.acquisition.acquired
        if date is not None and (self.acquired is None or date < self.acquired):
            self.acquired = date

    def values(self) -> SeriesValues | None:
        """Return the means; None if all slices are excluded."""
        if self.slices == self.novel:
            return None
        means = {name: self.totals[name] / count for name, count in self.counts.items()}
        return SeriesValues(
            self.score / (self.slices - self.novel),
            acquired=self.acquired,
            **{name: means.get(name) for name in (*MEASURES, "site_score")},
        )


class _Sums:
    """Sums over the rows of all files, by series."""

    def __init__(self, by: Sequence[str], checks: SeriesLimits | None) -> None:
        self._by = by
        self._checks = checks
        self._series: dict[tuple[str | None, ...], dict[str, _SeriesSums]] = {}
        self._scanners: dict[tuple[str | None, ...], set[str | None]] = {}
        self.slices = 0
        self.not_scored = 0
        self.site_maps: set[str] = set()

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
            if row.site_score is not None:
                self.site_maps.add(row.site_map)
            if self._checks is not None:
                self._checks.add(row, row.score)
            scanner = scanner_name(row.acquisition)
            key = tuple(
                scanner if name == "scanner" else getattr(row.acquisition, name)
                for name in self._by
            )
            self._scanners.setdefault(key, set()).add(scanner)
            members = self._series.setdefault(key, {})
            members.setdefault(row.series, _SeriesSums()).add(row, row.score)
        return own

    def groups(self) -> tuple[Group, ...]:
        keys = sorted(self._series, key=lambda key: list(map(_last_if_none, key)))
        groups = []
        for key in keys:
            members = self._series[key].values()
            values = [item.values() for item in members]
            groups.append(
                Group(
                    key,
                    sum(item.slices for item in members),
                    sum(item.novel for item in members),
                    tuple(item for item in values if item is not None),
                    tuple(sorted(self._scanners[key], key=_last_if_none)),
                )
            )
        return tuple(groups)


def scanner_name(acquisition: Acquisition) -> str | None:
    """Return the model and, in brackets, the device; None if neither is stated."""
    if acquisition.device is None:
        return acquisition.scanner
    return f"{stated(acquisition.scanner)} ({acquisition.device})"


def _last_if_none(value: str | None) -> tuple[bool, str]:
    return value is None, value or ""


def stated(value: str | None) -> str:
    """Return a value of a key as visible text."""
    return "not stated" if value is None else visible(value)


def _group_to_dict(by: Sequence[str], group: Group) -> dict[str, Any]:
    days, chart = group.days, group.chart
    quality = group.quality
    means = {name: group.mean(name) for name in MEASURES}
    return {
        **dict(zip(by, group.key, strict=True)),
        "slices": group.slices,
        "novel": group.novel,
        "series": len(group.series),
        "scanners": list(group.scanners),
        "quality": None if quality is None else asdict(quality),
        "site_mean": group.site_mean,
        **{name: None if mean is None else asdict(mean) for name, mean in means.items()},
        "undated_series": sum(series.acquired is None for series in group.series),
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
        "signals": [{"date": days[index].date, "rule": rule} for index, rule in chart.signals],
    }
