"""What a case of the log is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """An input that once failed, with the report it comes from.

    Attributes:
        name: id of the test.
        build: writes the input into an empty folder.
        source: public report, ``owner/repository#number``; empty for a habit of real archives
            without a report.
    """

    name: str
    build: Callable[[Path], object]
    source: str = ""
