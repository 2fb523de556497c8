"""Evaluate the sizes and grids of ``kernels.json`` on numbers, or on TensorRT's expressions.

The expressions are those of `clinreadnet.kernels.grid.Formula`: ``+``, ``*`` and ``/``, which
rounds down. TensorRT's symbolic integers take a number on the right only.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
}


def dimensions(shape: str) -> tuple[str, ...]:
    """Return the expressions of a shape such as ``[B, (H + 1) / 2, 24]``."""
    return tuple(part.strip() for part in shape.strip("[] ").split(","))


def evaluate(expression: str, sizes: Mapping[str, Any]) -> Any:
    """Return the value of a C expression.

    Args:
        expression: of names of sizes and non-negative integers.
        sizes: values of the names: integers, or TensorRT's symbolic ones.

    Raises:
        ValueError: it has another operator, an unknown name, or divides by a symbolic size.
    """

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name) and node.id in sizes:
            return sizes[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            left, right = value(node.left), value(node.right)
            if isinstance(left, int) and not isinstance(right, int):
                if isinstance(node.op, ast.Div):
                    raise ValueError(f"{expression}: divides a number by a symbolic size")
                left, right = right, left
            return _OPERATIONS[type(node.op)](left, right)
        raise ValueError(f"{expression}: {ast.unparse(node)} is no size and no operation on sizes")

    return value(ast.parse(expression, mode="eval").body)


def bound_sizes(declared: Mapping[str, str], actual: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the named sizes of a launch from the shapes of its inputs.

    A first dimension that is a name stands for all leading ones: ``[tokens, 48]`` of
    [B, H, W, 48] has B * H * W tokens.

    Args:
        declared: shape of each input, such as ``[B, H, W, 48]``, by its name.
        actual: its dimensions, integers or symbolic.

    Raises:
        ValueError: an input has fewer dimensions than it is declared to have.
    """
    sizes: dict[str, Any] = {}
    for name, shape in declared.items():
        names, found = dimensions(shape), list(actual[name])
        leading = len(found) - len(names)
        if leading < 0 or (leading and not names[0].isidentifier()):
            raise ValueError(f"{name}: has {len(found)} dimensions, not {shape}")
        first = found[0]
        for one in found[1 : leading + 1]:
            first = first * one
        for size, one in zip(names, [first, *found[leading + 1 :]], strict=True):
            if size.isidentifier():
                sizes.setdefault(size, one)
    return sizes
