"""Series that exceed a limit of the site, with their slices."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clinreadnet.data.slices import framed
from clinreadnet.errors import LimitExceeded, counted, visible
from clinreadnet.scoring.protocol_limits import (
    LEAST_MEAN_SCORE,
    LEAST_SCORE,
    LIMITS,
    MOST_NOVEL,
    Limit,
    ProtocolLimits,
    Section,
)
from clinreadnet.scoring.result import SliceScore
from clinreadnet.scoring.score_file import StoredScore

_MOST_PLACES = 5  # slices that a line names; --json gives all
_MOST_LINES = 50


@dataclass(frozen=True)
class Place:
    """A slice: its position along the slice normal in mm or None, file, frame and instance."""

    position: float | None
    path: str
    frame: int | None
    sop_instance_uid: str

    @property
    def name(self) -> str:
        """Name of the file, with the frame in brackets."""
        return visible(framed(os.path.basename(self.path), self.frame))


@dataclass(frozen=True)
class Breach:
    """A series that exceeds a limit.

    Attributes:
        series: SeriesInstanceUID, folder or file.
        protocol: its protocol; None if not stated.
        limit: the limit.
        value: value of the series.
        bound: its limit.
        slices: slices that exceed the limit themselves, in order.
        of: number of slices of the series.
    """

    series: str
    protocol: str | None
    limit: Limit
    value: float
    bound: float
    slices: tuple[Place, ...]
    of: int

    @property
    def values(self) -> str:
        """Figure, value and limit as text."""
        side = "below" if self.limit.least else "above"
        value, bound = (
            f"{text} {self.limit.unit}".strip() for text in self.limit.text(self.value, self.bound)
        )
        return f"{self.limit.value} {value} is {side} {bound}"

    @property
    def line(self) -> str:
        """Figure, value, limit and slices as text."""
        return f"{self.values}: {places(self.slices, self.of)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the breach for JSON."""
        return {
            "series": self.series,
            "protocol": self.protocol,
            "limit": self.limit.key,
            "value": self.value,
            "bound": self.bound,
            "slices": [asdict(place) for place in self.slices],
        }


def places(slices: Sequence[Place], of: int) -> str:
    """Return the number of slices of ``of``, and the positions or names of some as text."""
    count = (
        f"all {counted(of, 'slice')}" if len(slices) == of > 1 else counted(len(slices), "slice")
    )
    if not slices or len(slices) == of > 1:
        return count
    shown = slices[:_MOST_PLACES]
    positions = [f"{place.position:.1f}" for place in shown if place.position is not None]
    if len(positions) == len(shown):
        where = f"at {', '.join(positions)} mm"
    else:
        where = f"({', '.join(place.name for place in shown)})"
    more = f" and {len(slices) - len(shown)} more" if len(slices) > len(shown) else ""
    return f"{count} {where}{more}"


@dataclass(frozen=True)
class CheckedSeries:
    """A series, compared with its limits.

    Attributes:
        series: SeriesInstanceUID, folder or file.
        protocol: its protocol; None if not stated.
        section: its limits.
        slices: number of slices with a score.
        values: value by the key of a limit; missing if no slice has one.
        beyond: slices that exceed a limit themselves, by its key.
    """

    series: str
    protocol: str | None
    section: Section
    slices: int
    values: Mapping[str, float]
    beyond: Mapping[str, tuple[Place, ...]]

    @property
    def breaches(self) -> list[Breach]:
        """Limits that the series exceeds."""
        return [
            Breach(
                self.series,
                self.protocol,
                limit,
                self.values[key],
                self.section.bounds[key],
                self.beyond[key],
                self.slices,
            )
            for key, limit in LIMITS.items()
            if key in self.section.bounds
            and key in self.values
            and limit.exceeded(self.values[key], self.section.bounds[key])
        ]


@dataclass(frozen=True)
class LimitReport:
    """Series compared with the limits of a site.

    Attributes:
        limits: the limits.
        series: all series, in order.
    """

    limits: ProtocolLimits
    series: tuple[CheckedSeries, ...]

    @property
    def breaches(self) -> list[Breach]:
        """Limits that are exceeded, in the order of the series."""
        return [breach for series in self.series for breach in series.breaches]

    @property
    def unchecked(self) -> dict[str, int]:
        """Number of series with a limit, but without the value, by the key of the limit."""
        counts = {
            key: sum(key in s.section.bounds and key not in s.values for s in self.series)
            for key in LIMITS
        }
        return {key: count for key, count in counts.items() if count}

    @property
    def sentences(self) -> list[str]:
        """The breaches of one series as sentences, and the limits that could not be checked."""
        return [
            *(f"Limit exceeded: {breach.line}." for breach in self.breaches),
            *(f"Limit not checked: {LIMITS[key].value} is not known." for key in self.unchecked),
        ]

    @property
    def lines(self) -> list[str]:
        """Lines of text: each breach, then the limits that could not be checked."""
        breaches = self.breaches
        lines = [
            f"Limit exceeded: {visible(breach.series)}: {breach.line}"
            for breach in breaches[:_MOST_LINES]
        ]
        if more := len(breaches) - len(lines):
            lines.append(f"and {counted(more, 'more limit')} exceeded; --json gives all")
        lines += [
            f"Limit not checked: {LIMITS[key].value} of "
            f"{counted(count, 'series', len(self.series))}, "
            "where it is not known"
            for key, count in self.unchecked.items()
        ]
        return lines or [f"No limit of {visible(self.limits.file)} is exceeded"]

    def only(self, series: str) -> LimitReport:
        """Return the report of one series."""
        return LimitReport(self.limits, tuple(s for s in self.series if s.series == series))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``limits`` in ``--json``."""
        return {
            "file": self.limits.file,
            "series": len(self.series),
            "breaches": [breach.to_dict() for breach in self.breaches],
            "unchecked": self.unchecked,
        }

    def check(self) -> None:
        """Raise LimitExceeded if a limit is exceeded."""
        if breaches := self.breaches:
            series = len({breach.series for breach in breaches})
            of = len({checked.series for checked in self.series})
            values = dict.fromkeys(breach.limit.value for breach in breaches)
            raise LimitExceeded(
                f"{self.limits.file}: {counted(series, 'series', of, verb='exceeds')} a limit: "
                f"{', '.join(values)}"
            )


class SeriesLimits:
    """Compares series with their limits while slices are added.

    A mean score, and the lowest, is that of the slices that are not marked as novel. Noise and dose
    do not depend on the network, so their means are those of all slices that have them. A series
    with slices of several protocols is compared with the limits of each.
    """

    def __init__(self, limits: ProtocolLimits) -> None:
        self._limits = limits
        self._series: dict[tuple[str, str | None], _Sums] = {}

    def add(self, one: SliceScore | StoredScore, score: float) -> None:
        """Add a slice with its score."""
        key = one.series, one.acquisition.protocol
        if key not in self._series:
            self._series[key] = _Sums(self._limits.of(key[1]))
        self._series[key].add(one, score)

    def report(self) -> LimitReport:
        """Return the series that were added."""
        return LimitReport(
            self._limits, tuple(sums.checked(*key) for key, sums in self._series.items())
        )


class _Sums:
    """Sums over the slices of a series, by the key of a limit."""

    def __init__(self, section: Section) -> None:
        self._section = section
        self._slices = 0
        self._totals: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._beyond: dict[str, list[Place]] = {key: [] for key in section.bounds}

    def add(self, one: SliceScore | StoredScore, score: float) -> None:
        self._slices += 1
        novel = one.in_domain is False
        values: dict[str, float | None] = {
            limit.key: getattr(one.figures, limit.figure, None)
            for limit in LIMITS.values()
            if limit.figure
        }
        values[MOST_NOVEL.key] = None if one.in_domain is None else float(novel)
        values[LEAST_MEAN_SCORE.key] = values[LEAST_SCORE.key] = None if novel else score
        for key, value in values.items():
            if value is None:
                continue
            total = self._totals.get(key)
            if total is None:
                self._totals[key] = value
            else:
                self._totals[key] = min(total, value) if key == LEAST_SCORE.key else total + value
            self._counts[key] = self._counts.get(key, 0) + 1
            bound = self._section.bounds.get(key)
            if bound is not None and LIMITS[key].exceeded(value, bound):
                place = Place(one.position, one.path, one.frame, one.sop_instance_uid)
                self._beyond[key].append(place)

    def checked(self, series: str, protocol: str | None) -> CheckedSeries:
        values = {
            key: total if key == LEAST_SCORE.key else total / self._counts[key]
            for key, total in self._totals.items()
        }
        beyond = {key: tuple(places) for key, places in self._beyond.items()}
        return CheckedSeries(series, protocol, self._section, self._slices, values, beyond)


def check_limits(slices: Sequence[SliceScore], limits: ProtocolLimits) -> LimitReport:
    """Return the series of some slices, compared with the limits of a site."""
    series = SeriesLimits(limits)
    for one in slices:
        series.add(one, one.score)
    return series.report()
