"""The type of a regression case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """An input that once failed, with the report it comes from.

    Attributes:
        name: id of the test.
        build: function that writes the input to an empty folder.
        source: public report, ``owner/repository#number``; empty if real archives do this
            without a report.
    """

    name: str
    build: Callable[[Path], object]
    source: str = ""
