"""Size-adjusted dose and noise of each series by category, as CMS 1056, 1074 and 1206 ask for.

These measures count CT exams of adults that are out of range in size-adjusted dose or global noise,
with thresholds for each category of CT. Category and thresholds are those of the site's limits. The
table is not the measure: docs/limits.md says what differs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from clinreadnet.console import Column, fitted_table, print_lines
from clinreadnet.errors import InputError, counted, visible
from clinreadnet.scoring.breaches import CheckedSeries, LimitReport, Place, places
from clinreadnet.scoring.protocol_limits import MOST_NOISE, MOST_SSDE, Limit, ProtocolLimits

_MOST_ROWS = 50
_ANSWERS = {True: "in", False: "out", None: "not known"}


@dataclass(frozen=True)
class EcqmRow:
    """A series against the thresholds of its category.

    Attributes:
        checked: the series and its limits.
    """

    checked: CheckedSeries

    @property
    def category(self) -> str:
        """Category of CT that the site assigns to the protocol; empty without."""
        return self.checked.section.category

    def value(self, limit: Limit) -> float | None:
        """Return the mean noise in HU or size-specific dose in mGy; None if it is not known."""
        return self.checked.values.get(limit.key)

    def threshold(self, limit: Limit) -> float | None:
        """Return the largest value in range; None without a category."""
        return self.checked.section.bounds[limit.key] if self.category else None

    def text(self, limit: Limit) -> tuple[str, str]:
        """Return a value and its threshold as text; empty if they are None."""
        value, threshold = self.value(limit), self.threshold(limit)
        texts = limit.text(value or 0.0, threshold or 0.0)
        return ("" if value is None else texts[0], "" if threshold is None else texts[1])

    @property
    def in_range(self) -> bool | None:
        """False if noise or dose is out of range, None if that is not known."""
        known = True
        for limit in (MOST_NOISE, MOST_SSDE):
            value, threshold = self.value(limit), self.threshold(limit)
            if value is None or threshold is None:
                known = False
            elif limit.exceeded(value, threshold):
                return False
        return True if known else None

    @property
    def slices(self) -> tuple[Place, ...]:
        """Slices that are out of range themselves, by position; empty without a category."""
        if not self.category:
            return ()
        beyond = (self.checked.beyond[limit.key] for limit in (MOST_NOISE, MOST_SSDE))
        slices = dict.fromkeys(place for own in beyond for place in own)
        return tuple(sorted(slices, key=lambda place: (place.position or 0.0, place.path)))

    def to_dict(self) -> dict[str, Any]:
        """Return the row for JSON."""
        return {
            "series": self.checked.series,
            "protocol": self.checked.protocol,
            "category": self.category or None,
            "ssde_mgy": self.value(MOST_SSDE),
            "most_ssde_mgy": self.threshold(MOST_SSDE),
            "noise_hu": self.value(MOST_NOISE),
            "most_noise_hu": self.threshold(MOST_NOISE),
            "in_range": self.in_range,
            "slices": [asdict(place) for place in self.slices],
        }


@dataclass(frozen=True)
class EcqmTable:
    """The series of a summary, those out of range first."""

    rows: tuple[EcqmRow, ...]

    def count(self, answer: bool | None) -> int:
        """Return the number of series in range, out of range (False), or not known (None)."""
        return sum(row.in_range is answer for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``ecqm`` in ``--json``."""
        return {
            "in": self.count(True),
            "out": self.count(False),
            "not_known": self.count(None),
            "series": [row.to_dict() for row in self.rows],
        }


def check_categories(limits: ProtocolLimits | None) -> None:
    """Raise InputError if no category is stated."""
    if limits is None:
        raise InputError("`ecqm` needs `limits`: a file with a category and its thresholds")
    if not limits.categories:
        raise InputError(
            f"{limits.file}: states no category; `ecqm` needs one, with its thresholds, in "
            '[default] or [protocol."PATTERN"]'
        )


def make_ecqm_table(report: LimitReport) -> EcqmTable:
    """Return the table of compared series."""
    order = (False, None, True)
    rows = sorted(map(EcqmRow, report.series), key=lambda row: order.index(row.in_range))
    return EcqmTable(tuple(rows))


def print_ecqm_table(table: EcqmTable, console: Console) -> None:
    """Print the table, and the number of series out of range."""
    rows = table.rows[:_MOST_ROWS]
    columns = []
    for name, limit, order in (("SSDE", MOST_SSDE, 3), ("noise", MOST_NOISE, 4)):
        texts = [row.text(limit) for row in rows]
        columns += [
            Column(f"{name}\n({limit.unit})", [value for value, _ in texts]),
            Column("at\nmost", [threshold for _, threshold in texts], order),
        ]
    columns += [
        Column("range", [_ANSWERS[row.in_range] for row in rows], justify="left"),
        Column("category", [visible(row.category) for row in rows], 2, "left"),
        Column(
            "slices out of range",
            [
                places(row.slices, row.checked.slices) if row.in_range is False else ""
                for row in rows
            ],
            5,
            "left",
        ),
    ]
    names = [visible(row.checked.series) for row in rows]
    title = "Size-adjusted dose and noise by category"
    console.print(fitted_table(console, "series", names, columns, most=12, title=title))
    out = table.count(False)
    known = table.count(True) + out
    lines = [f"{counted(out, 'series', known, verb='is')} out of range"]
    if unknown := table.count(None):
        lines[0] += f"; of {unknown} more, category, dose or noise is not known"
    if more := len(table.rows) - len(rows):
        lines.append(f"and {more} more series; --json gives all")
    lines.append(
        "Categories are those that your file gives to protocols. CMS 1056, 1074 and 1206 assign "
        "them by clinical indication, and adjust the dose of the whole exam."
    )
    print_lines(console, *lines)
