"""Limits of a site on scores, noise, dose and novel slices, for each protocol: a TOML file.

A section `[default]` holds for every series, and a section `[protocol."PATTERN"]` replaces some of
it for protocols that match. docs/limits.md has an example.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from clinreadnet import limits
from clinreadnet.errors import InputError
from clinreadnet.files import AnyPath, read_toml
from clinreadnet.spec import GRADE_RANGE

_CATEGORY = "category"
_MOST_DIGITS = 9
_LONGEST_TEXT = 64  # characters, as DICOM's LO allows


@dataclass(frozen=True)
class Limit:
    """A limit on a value of a series.

    Attributes:
        key: key in the file.
        value: what is limited, as text.
        unit: unit as a person reads it; empty without.
        digits: decimals that are shown.
        figure: field of `SliceFigures`; empty if the limit needs no figure.
        largest: largest limit that can be set.
        least: whether smaller values exceed the limit; otherwise larger ones.
    """

    key: str
    value: str
    unit: str
    digits: int
    figure: str = ""
    largest: float = math.inf
    least: bool = False

    def exceeded(self, value: float, bound: float) -> bool:
        """Return whether ``value`` is beyond ``bound``."""
        return value < bound if self.least else value > bound

    def text(self, value: float, bound: float) -> tuple[str, str]:
        """Return a value and its limit as text; more digits tell apart what is nearly equal."""
        kind = "%" if self.largest == 1 else "f"
        for digits in range(self.digits, _MOST_DIGITS):
            shown, limit = f"{value:.{digits}{kind}}", f"{bound:.{digits}{kind}}"
            if shown != limit or value == bound:
                break
        return shown.replace("%", " %"), limit.replace("%", " %")


LEAST_MEAN_SCORE = Limit("least_mean_score", "mean score", "", 2, "", GRADE_RANGE, True)
LEAST_SCORE = Limit("least_score", "lowest score", "", 2, "", GRADE_RANGE, True)
MOST_NOISE = Limit("most_noise_hu", "mean noise", "HU", 1, "noise_hu")
MOST_SSDE = Limit("most_ssde_mgy", "mean SSDE", "mGy", 1, "ssde_mgy")
MOST_NOVEL = Limit("most_novel_share", "share of novel slices", "", 1, "", 1.0)
LIMITS = {
    limit.key: limit for limit in (LEAST_MEAN_SCORE, LEAST_SCORE, MOST_NOISE, MOST_SSDE, MOST_NOVEL)
}
"""Limits by their key, in the order of their breaches."""


@dataclass(frozen=True)
class Section:
    """Limits of some protocols.

    Attributes:
        pattern: protocols with these limits; ``*`` is the default.
        bounds: limit by its key.
        category: category of CT that the site assigns to these protocols; empty without.
    """

    pattern: str
    bounds: Mapping[str, float]
    category: str = ""


@dataclass(frozen=True)
class ProtocolLimits:
    """Limits of a site.

    Attributes:
        file: the file.
        default: limits of protocols that match no pattern, and of series without a protocol.
        protocols: limits of other protocols, in the order of the file.
    """

    file: str
    default: Section
    protocols: tuple[Section, ...] = ()

    def of(self, protocol: str | None) -> Section:
        """Return the first section that matches a protocol, without regard to case."""
        if protocol is not None:
            for section in self.protocols:
                if fnmatchcase(protocol.casefold(), section.pattern.casefold()):
                    return section
        return self.default

    @property
    def figures(self) -> tuple[str, ...]:
        """Fields of `SliceFigures` on which a limit is set."""
        keys = {key for section in (self.default, *self.protocols) for key in section.bounds}
        return tuple(limit.figure for key, limit in LIMITS.items() if key in keys and limit.figure)

    @property
    def categories(self) -> bool:
        """Whether a section states a category."""
        return any(section.category for section in (self.default, *self.protocols))

    def check_figures(self, figures: bool) -> None:
        """Raise InputError if figures are limited that are not measured."""
        if self.figures and not figures:
            raise InputError(
                f"{self.file}: limits {' and '.join(self.figures)}, which only `figures` measures; "
                "add it"
            )


def read_protocol_limits(path: AnyPath) -> ProtocolLimits:
    """Read a file of limits.

    Raises:
        InputError: the file cannot be read, is not TOML or sets no limit, a key is unknown, or a
            value has a wrong type or is out of range.
    """
    name, content = os.fsdecode(path), read_toml(path, limits.PROTOCOL_LIMITS)
    if unknown := [key for key in content if key not in ("default", "protocol")]:
        raise InputError(
            f'{name}: {unknown[0]}: unknown; give [default] and [protocol."PATTERN"] sections'
        )
    default = _section(name, "default", content.get("default", {}), Section("*", {}))
    protocols = content.get("protocol", {})
    if not isinstance(protocols, dict):
        raise InputError(f'{name}: protocol: not a section; write [protocol."PATTERN"]')
    sections = [
        _section(name, f"protocol.{pattern!r}", table, Section(pattern, default.bounds))
        for pattern, table in protocols.items()
    ]
    if not default.bounds and not any(section.bounds for section in sections):
        raise InputError(f"{name}: sets no limit; known: {', '.join(LIMITS)}")
    return ProtocolLimits(name, default, tuple(sections))


def _section(file: str, where: str, table: Any, base: Section) -> Section:
    """Return a section; its limits replace those of ``base``."""
    if not isinstance(table, dict):
        raise InputError(f"{file}: {where}: {table!r} is not a section")
    bounds, category = dict(base.bounds), ""
    for key, value in table.items():
        here = f"{file}: {where}: {key}"
        if key == _CATEGORY:
            if not isinstance(value, str) or not 0 < len(value.strip()) <= _LONGEST_TEXT:
                raise InputError(f"{here} is {value!r}; expected 1 to {_LONGEST_TEXT} characters")
            category = value.strip()
        elif key not in LIMITS:
            known = ", ".join((*LIMITS, _CATEGORY))
            raise InputError(f"{here}: unknown; known: {known}")
        else:
            bounds[key] = _bound(here, LIMITS[key], value)
    _check(file, where, bounds, category)
    return Section(base.pattern, bounds, category)


def _bound(here: str, limit: Limit, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{here} is {value!r}; expected a number")
    with suppress(OverflowError):
        value = float(value)
    # Nothing exceeds a least value of 0, or a share of 1.
    share = limit.largest == 1
    possible = 0 <= value < 1 if share else 0 < value <= limit.largest
    if not possible or not isinstance(value, float) or value == math.inf:
        span = "0 or more and below 1" if share else "more than 0"
        if not share and limit.largest < math.inf:
            span += f", at most {limit.largest:g}"
        raise InputError(f"{here} is {value}; expected {span}")
    return value


def _check(file: str, where: str, bounds: Mapping[str, float], category: str) -> None:
    single, mean = (bounds.get(limit.key) for limit in (LEAST_SCORE, LEAST_MEAN_SCORE))
    if single is not None and mean is not None and single > mean:
        raise InputError(
            f"{file}: {where}: least_score {single:g} is above least_mean_score {mean:g}; no mean "
            "is below its slices, so lower least_score"
        )
    needed = [limit.key for limit in (MOST_NOISE, MOST_SSDE) if limit.key not in bounds]
    if category and needed:
        raise InputError(f"{file}: {where}: category needs {' and '.join(needed)} too")
