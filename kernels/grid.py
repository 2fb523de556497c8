"""How many programs a launch starts: numbers for a launch here, C for hosts that launch themselves.

Each kernel's module has one function of its grid. Given integers it returns the grid; given
``Formula("H")`` and the like it returns the expression that a C++ host evaluates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True)
class Formula:
    """A C expression of non-negative integers; ``/`` rounds down.

    Sums and quotients stand in parentheses, so that products need none.
    """

    text: str

    def __add__(self, other: int | Formula) -> Formula:
        return Formula(f"({self.text} + {_text(other)})")

    def __mul__(self, other: int | Formula) -> Formula:
        return Formula(f"{self.text} * {_text(other)}")

    def __floordiv__(self, other: int) -> Formula:
        return Formula(f"({self.text} / {other})")


def _text(value: int | Formula) -> str:
    return value.text if isinstance(value, Formula) else str(value)


Size = TypeVar("Size", int, Formula)
"""A size known now, or its formula."""


def ceil_div(size: Size, block: int) -> Size:
    """Blocks that cover ``size``."""
    return (size + (block - 1)) // block
