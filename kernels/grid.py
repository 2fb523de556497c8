"""Sizes of a launch: numbers for launches from Python, formulas for other hosts.

Each kernel's module has a function for its grid. For integers it returns the number of programs.
For formulas it returns a formula, whose ``text`` is a C expression for a C++ host and whose ``at``
is the value for given sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar


@dataclass(frozen=True)
class Formula:
    """A C expression of non-negative integers; ``/`` rounds down.

    TensorRT's symbolic integers accept a number only as the right operand.

    Attributes:
        text: C expression. Sums and quotients are in parentheses, so products need none.
        value: function from sizes by name to the value; default the size with the name ``text``.
    """

    text: str
    value: Callable[[Mapping[str, Any]], Any] | None = field(
        default=None, compare=False, repr=False
    )

    @property
    def is_size(self) -> bool:
        """Whether the formula is a single size, named by ``text``."""
        return self.value is None

    def at(self, sizes: Mapping[str, Any]) -> Any:
        """Return the value for sizes by name: integers or TensorRT's symbolic integers."""
        return sizes[self.text] if self.value is None else self.value(sizes)

    def __add__(self, other: int | Formula) -> Formula:
        return Formula(f"({self.text} + {_text(other)})", lambda s: self.at(s) + _at(other, s))

    def __mul__(self, other: int | Formula) -> Formula:
        return Formula(f"{self.text} * {_text(other)}", lambda s: self.at(s) * _at(other, s))

    def __rmul__(self, other: int) -> Formula:
        return Formula(f"{other} * {self.text}", lambda s: self.at(s) * other)

    def __floordiv__(self, other: int) -> Formula:
        if not isinstance(other, int):
            return NotImplemented  # TensorRT divides only by numbers
        return Formula(f"({self.text} / {other})", lambda s: self.at(s) // other)


def _text(value: int | Formula) -> str:
    return value.text if isinstance(value, Formula) else str(value)


def _at(value: int | Formula, sizes: Mapping[str, Any]) -> Any:
    return value.at(sizes) if isinstance(value, Formula) else value


B, H, W, N, HEADS, TOKENS = map(Formula, ("B", "H", "W", "N", "heads", "tokens"))
"""Sizes of launches: batch, height, width, tokens of an image, attention heads, and B * H * W."""

Shape = tuple[int | Formula, ...]
"""Shape of a tensor in terms of sizes."""

Size = TypeVar("Size", int, Formula)
"""A number or a formula."""


def ceil_div(size: Size, block: int) -> Size:
    """Return the number of blocks that cover ``size``."""
    return (size + (block - 1)) // block


def shape_text(shape: Shape) -> str:
    """Return a shape as C expressions, such as ``[B, (H + 1) / 2, 24]``."""
    parts = [_text(size) for size in shape]
    return f"[{', '.join(p[1:-1] if p.startswith('((') else p for p in parts)}]"


def bound_sizes(
    declared: Mapping[str, Shape], actual: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """Return the named sizes of a launch from the shapes of its inputs.

    A first dimension that is a single size is the product of all leading dimensions: ``[tokens,
    48]`` of [B, H, W, 48] has B * H * W tokens.

    Args:
        declared: declared shape of each input, by name.
        actual: actual dimensions of each input, integers or symbolic.

    Raises:
        ValueError: an input has fewer dimensions than declared.
    """
    sizes: dict[str, Any] = {}
    for name, shape in declared.items():
        dimensions = list(actual[name])
        leading = len(dimensions) - len(shape)
        if leading < 0 or (leading and not (isinstance(shape[0], Formula) and shape[0].is_size)):
            raise ValueError(f"{name}: has {len(dimensions)} dimensions, not {shape_text(shape)}")
        first = dimensions[0]
        for size in dimensions[1 : leading + 1]:
            first = first * size
        for formula, size in zip(shape, [first, *dimensions[leading + 1 :]], strict=True):
            if isinstance(formula, Formula) and formula.is_size:
                sizes.setdefault(formula.text, size)
    return sizes
