"""Number of programs of a launch: numbers for a launch from Python, C expressions for other hosts.

Each kernel's module has one function for its grid. For integers it returns the grid. For formulas
such as ``Formula("H")`` it returns the expression that a C++ host evaluates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True)
class Formula:
    """A C expression of non-negative integers; ``/`` rounds down.

    Sums and quotients are in parentheses, so products need none.
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
"""A number, or a formula."""


def ceil_div(size: Size, block: int) -> Size:
    """Return the number of blocks that cover ``size``."""
    return (size + (block - 1)) // block
