"""Floating-point instructions. Approximations have the largest error that the manual allows."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from clinreadnet.kernels.ptx.instructions import instruction
from clinreadnet.kernels.ptx.machine import Array
from clinreadnet.kernels.ptx.machine import Machine as M
from clinreadnet.kernels.ptx.program import Instruction, Operand

FLOAT = np.float32
SMALLEST_NORMAL = FLOAT(2.0**-126)


def flushed(x: Array) -> Array:
    """Flush subnormals to a zero of the same sign (``.ftz``)."""
    return np.where(np.abs(x) < SMALLEST_NORMAL, np.copysign(FLOAT(0), x), x)


def erring(exact: Array, bound: float) -> Array:
    """Add a relative error of ``bound`` to float64 results, upwards for every second number.

    As on a GPU, equal inputs give equal results.
    """
    mixed = exact.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    up = np.where(mixed >> np.uint64(63), 1.0, -1.0)
    return (exact * (1 + up * bound)).astype(FLOAT)


def pairs(m: M, operand: Operand) -> Array:
    """Return the two float32 numbers of an f32x2 operand, [threads, 2]."""
    return np.ascontiguousarray(m.read(operand, "f32x2")).view(FLOAT).reshape(-1, 2)


def packed(values: Array) -> Array:
    """Inverse of ``pairs``."""
    return np.ascontiguousarray(values).view(np.uint64)[:, 0]


def widened(bits: Array, kind: str) -> Array:
    """Convert bits of f16 or bf16 to float32 numbers."""
    if kind == "f16":
        return bits.view(np.float16).astype(FLOAT)
    return (bits.astype(np.uint32) << np.uint32(16)).view(FLOAT)


Function = Callable[..., Array]
"""Function of the float32 operands of all threads."""


def fused(a: Array, b: Array, c: Array) -> Array:
    """Computed in float64 and rounded again, which differs in one of 2**29 cases."""
    return (a.astype(np.float64) * b + c).astype(FLOAT)


def flushing(compute: Function) -> Function:
    """Return the function with subnormal operands and results flushed (``.ftz``)."""
    return lambda *terms: flushed(compute(*map(flushed, terms)))


def approximate(compute: Function, bound: float) -> Function:
    """Return the function, computed in float64, with a relative error of ``bound``."""
    return lambda *terms: erring(compute(*(term.astype(np.float64) for term in terms)), bound)


UNIT = 2.0**-23
"""Unit in the last place, relative to the number."""

_FUNCTIONS: tuple[tuple[str, str, Function], ...] = (
    ("add", "add.{f32,rn.f32,f32x2,rn.f32x2}", np.add),
    ("sub", "sub.{f32,rn.f32,f32x2,rn.f32x2}", np.subtract),
    ("mul", "mul.{f32,rn.f32,f32x2,rn.f32x2}", np.multiply),
    ("mul", "mul.{ftz.f32,rn.ftz.f32}", flushing(np.multiply)),
    ("fma", "fma.rn.{f32,f32x2}", fused),
    ("fma", "fma.rn.ftz.f32", flushing(fused)),
    # Two or three operands; NaN is ignored.
    ("min", "min.f32", lambda *terms: functools.reduce(np.fmin, terms)),
    ("max", "max.f32", lambda *terms: functools.reduce(np.fmax, terms)),
    ("neg", "neg.f32", np.negative),
    ("abs", "abs.f32", np.abs),
    ("abs", "abs.ftz.f32", flushing(np.abs)),
    ("copysign", "copysign.f32", lambda sign, size: np.copysign(size, sign)),
    ("div", "div.rn.f32", np.divide),
    ("div", "div.full.f32", approximate(np.divide, 2 * UNIT)),
    ("rcp", "rcp.rn.f32", lambda x: FLOAT(1) / x),
    ("rcp", "rcp.approx.ftz.f32", flushing(approximate(lambda x: 1 / x, UNIT))),
    ("sqrt", "sqrt.rn.f32", np.sqrt),
    ("sqrt", "sqrt.approx.{f32,ftz.f32}", flushing(approximate(np.sqrt, UNIT))),
    (
        "rsqrt",
        "rsqrt.approx.{f32,ftz.f32}",
        flushing(approximate(lambda x: 1 / np.sqrt(x), 2.0**-22.9)),
    ),
    ("ex2", "ex2.approx.ftz.f32", flushing(approximate(np.exp2, 2 * UNIT))),
    ("tanh", "tanh.approx.f32", approximate(np.tanh, 2.0**-11)),
)
"""Section of the manual, opcodes and function of each thread's operands."""


def _register(section: str, opcodes: str, compute: Function) -> None:
    @instruction(f"Floating Point: {section}", opcodes)
    def run(m: M, i: Instruction) -> None:
        d, *terms = i.operands
        if i.kind == "f32x2":
            m.write(d, packed(compute(*(pairs(m, term) for term in terms))))
        else:
            m.write(d, compute(*(m.number(term) for term in terms)))


for _entry in _FUNCTIONS:
    _register(*_entry)


@instruction("Mixed Precision Floating Point: add, sub", "{add,sub}.{f32,rn.f32}.{f16,bf16}")
def mixed(m: M, i: Instruction) -> None:
    d, a, c = i.operands
    x, y = widened(m.read(a, i.kind), i.kind), m.number(c)
    m.write(d, x + y if i.opcode.startswith("add") else x - y)


@instruction("Mixed Precision Floating Point: fma", "fma.rn.f32.{f16,bf16}")
def mixed_fma(m: M, i: Instruction) -> None:
    d, a, b, c = i.operands
    x, y = (widened(m.read(operand, i.kind), i.kind) for operand in (a, b))
    m.write(d, fused(x, y, m.number(c)))
