"""Floating-point instructions. Approximations have the largest error that the manual allows."""

from __future__ import annotations

import functools

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


@instruction("Floating Point: add", "add.{f32,rn.f32}")
def add(m: M, i: Instruction) -> None:
    d, a, b = i.operands
    m.write(d, m.number(a) + m.number(b))


@instruction("Floating Point: sub", "sub.{f32,rn.f32}")
def sub(m: M, i: Instruction) -> None:
    d, a, b = i.operands
    m.write(d, m.number(a) - m.number(b))


@instruction("Floating Point: mul", "mul.{f32,rn.f32}")
def mul(m: M, i: Instruction) -> None:
    d, a, b = i.operands
    m.write(d, m.number(a) * m.number(b))


@instruction("Floating Point: mul", "mul.{ftz.f32,rn.ftz.f32}")
def mul_ftz(m: M, i: Instruction) -> None:
    d, a, b = i.operands
    m.write(d, flushed(flushed(m.number(a)) * flushed(m.number(b))))


@instruction("Floating Point: fma", "fma.rn.f32")
def fma(m: M, i: Instruction) -> None:
    """Computed in float64 and rounded again, which differs in one of 2**29 cases."""
    d, a, b, c = i.operands
    product = m.number(a).astype(np.float64) * m.number(b)
    m.write(d, (product + m.number(c)).astype(FLOAT))


@instruction("Floating Point: fma", "fma.rn.ftz.f32")
def fma_ftz(m: M, i: Instruction) -> None:
    d, *terms = i.operands
    a, b, c = (flushed(m.number(term)) for term in terms)
    m.write(d, flushed((a.astype(np.float64) * b + c).astype(FLOAT)))


@instruction("Floating Point: add, sub, mul", "{add,sub,mul}.{f32x2,rn.f32x2}")
def arithmetic_x2(m: M, i: Instruction) -> None:
    d, a, b = i.operands
    x, y = pairs(m, a), pairs(m, b)
    name = i.opcode.partition(".")[0]
    m.write(d, packed(x + y if name == "add" else x - y if name == "sub" else x * y))


@instruction("Floating Point: fma", "fma.rn.f32x2")
def fma_x2(m: M, i: Instruction) -> None:
    d, a, b, c = i.operands
    m.write(d, packed((pairs(m, a).astype(np.float64) * pairs(m, b) + pairs(m, c)).astype(FLOAT)))


@instruction("Mixed Precision Floating Point: add, sub", "{add,sub}.{f32,rn.f32}.{f16,bf16}")
def mixed(m: M, i: Instruction) -> None:
    d, a, c = i.operands
    x, y = widened(m.read(a, i.kind), i.kind), m.number(c)
    m.write(d, x + y if i.opcode.startswith("add") else x - y)


@instruction("Mixed Precision Floating Point: fma", "fma.rn.f32.{f16,bf16}")
def mixed_fma(m: M, i: Instruction) -> None:
    d, a, b, c = i.operands
    x, y = (widened(m.read(operand, i.kind), i.kind).astype(np.float64) for operand in (a, b))
    m.write(d, (x * y + m.number(c)).astype(FLOAT))


def widened(bits: Array, kind: str) -> Array:
    """Convert bits of f16 or bf16 to float32 numbers."""
    if kind == "f16":
        return bits.view(np.float16).astype(FLOAT)
    return (bits.astype(np.uint32) << np.uint32(16)).view(FLOAT)


@instruction("Floating Point: min, max", "{min,max}.f32")
def extreme(m: M, i: Instruction) -> None:
    """Minimum or maximum of two or three operands; NaN is ignored."""
    d, *terms = i.operands
    choose = np.fmin if i.opcode.startswith("min") else np.fmax
    m.write(d, functools.reduce(choose, (m.number(term) for term in terms)))


@instruction("Floating Point: neg", "neg.f32")
def neg(m: M, i: Instruction) -> None:
    d, a = i.operands
    m.write(d, -m.number(a))


@instruction("Floating Point: abs", "abs.f32")
def absolute(m: M, i: Instruction) -> None:
    d, a = i.operands
    m.write(d, np.abs(m.number(a)))


@instruction("Floating Point: abs", "abs.ftz.f32")
def absolute_ftz(m: M, i: Instruction) -> None:
    d, a = i.operands
    m.write(d, flushed(np.abs(m.number(a))))


@instruction("Floating Point: copysign", "copysign.f32")
def copysign(m: M, i: Instruction) -> None:
    d, a, b = i.operands
    m.write(d, np.copysign(m.number(b), m.number(a)))


@instruction("Floating Point: div", "div.rn.f32")
def divide(m: M, i: Instruction) -> None:
    d, a, b = i.operands
    m.write(d, m.number(a) / m.number(b))


@instruction("Floating Point: div", "div.full.f32")
def divide_full(m: M, i: Instruction) -> None:
    """Error of at most two units in the last place."""
    d, a, b = i.operands
    m.write(d, erring(m.number(a).astype(np.float64) / m.number(b), 2 * 2.0**-23))


@instruction("Floating Point: rcp", "rcp.approx.ftz.f32")
def rcp(m: M, i: Instruction) -> None:
    """Error of at most one unit in the last place."""
    d, a = i.operands
    m.write(d, flushed(erring(1 / flushed(m.number(a)).astype(np.float64), 2.0**-23)))


@instruction("Floating Point: rcp", "rcp.rn.f32")
def rcp_rn(m: M, i: Instruction) -> None:
    d, a = i.operands
    m.write(d, FLOAT(1) / m.number(a))


@instruction("Floating Point: sqrt", "sqrt.rn.f32")
def sqrt(m: M, i: Instruction) -> None:
    d, a = i.operands
    m.write(d, np.sqrt(m.number(a)))


@instruction("Floating Point: sqrt", "sqrt.approx.{f32,ftz.f32}")
def sqrt_approx(m: M, i: Instruction) -> None:
    d, a = i.operands
    m.write(d, erring(np.sqrt(flushed(m.number(a)).astype(np.float64)), 2.0**-23))


@instruction("Floating Point: rsqrt", "rsqrt.approx.{f32,ftz.f32}")
def rsqrt(m: M, i: Instruction) -> None:
    d, a = i.operands
    exact = 1 / np.sqrt(flushed(m.number(a)).astype(np.float64))
    m.write(d, erring(exact, 2.0**-22.9))


@instruction("Floating Point: ex2", "ex2.approx.ftz.f32")
def ex2(m: M, i: Instruction) -> None:
    d, a = i.operands
    exact = np.exp2(flushed(m.number(a)).astype(np.float64))
    m.write(d, flushed(erring(exact, 2.0**-22)))


@instruction("Floating Point: tanh", "tanh.approx.f32")
def tanh(m: M, i: Instruction) -> None:
    d, a = i.operands
    m.write(d, erring(np.tanh(m.number(a).astype(np.float64)), 2.0**-11))
