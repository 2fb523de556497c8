"""Integers, logic, comparison and selection."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clinreadnet.kernels.ptx.errors import PtxError
from clinreadnet.kernels.ptx.instructions import instruction
from clinreadnet.kernels.ptx.machine import TYPES, Array
from clinreadnet.kernels.ptx.machine import Machine as M
from clinreadnet.kernels.ptx.program import Instruction, Operand


def _bits(kind: str) -> int:
    return 8 * np.dtype(TYPES[kind]).itemsize


def _typed(m: M, operand: Operand, kind: str) -> Array:
    """Return an operand as signed integers for types such as s32, otherwise unsigned."""
    return m.signed(operand, kind) if kind[0] == "s" else m.read(operand, kind)


_SIGNED, _ALL, _BITS = "{s16,s32,s64}", "{s16,u16,s32,u32,s64,u64}", "{pred,b16,b32,b64}"

_FUNCTIONS: tuple[tuple[str, str, Callable[..., Array]], ...] = (
    ("Integer Arithmetic: add", f"add.{_ALL}", np.add),
    ("Integer Arithmetic: sub", f"sub.{_ALL}", np.subtract),
    ("Integer Arithmetic: mul", f"mul.lo.{_ALL}", np.multiply),
    ("Integer Arithmetic: mad", f"mad.lo.{_ALL}", lambda a, b, c: a * b + c),
    ("Integer Arithmetic: min", f"min.{_ALL}", np.minimum),
    ("Integer Arithmetic: max", f"max.{_ALL}", np.maximum),
    ("Integer Arithmetic: neg", f"neg.{_SIGNED}", np.negative),
    ("Integer Arithmetic: abs", f"abs.{_SIGNED}", np.abs),
    ("Logic and Shift: and", f"and.{_BITS}", np.bitwise_and),
    ("Logic and Shift: or", f"or.{_BITS}", np.bitwise_or),
    ("Logic and Shift: xor", f"xor.{_BITS}", np.bitwise_xor),
    ("Logic and Shift: not", f"not.{_BITS}", np.invert),
)
"""Section of the manual, opcodes and function of each thread's operands."""


def _register(section: str, opcodes: str, compute: Callable[..., Array]) -> None:
    @instruction(section, opcodes)
    def run(m: M, i: Instruction) -> None:
        d, *terms = i.operands
        m.write(d, compute(*(_typed(m, term, i.kind) for term in terms)))


for _entry in _FUNCTIONS:
    _register(*_entry)


@instruction("Integer Arithmetic: add, min, max", "{add,min,max}.{u16x2,s16x2}")
def packed_halves(m: M, i: Instruction) -> None:
    """Two separate 16-bit numbers in a word."""
    d, *terms = i.operands
    name, _, kind = i.opcode.partition(".")
    half = np.dtype(np.int16 if kind == "s16x2" else np.uint16)
    a, b = (np.ascontiguousarray(m.read(term, "b32")).view(half) for term in terms)
    chosen = {"add": np.add, "min": np.minimum, "max": np.maximum}[name](a, b)
    m.write(d, chosen.view(np.uint32))


@instruction("Integer Arithmetic: mul", "mul.wide.{s16,u16,s32,u32}")
def mul_wide(m: M, i: Instruction) -> None:
    d, a, b = i.operands
    m.write(d, _widened(m, a, i.kind) * _widened(m, b, i.kind))


def _widened(m: M, operand: Operand, kind: str) -> Array:
    letter = "i" if kind[0] == "s" else "u"
    return _typed(m, operand, kind).astype(f"{letter}{_bits(kind) // 4}")


@instruction("Integer Arithmetic: mul", "mul.hi.{s16,u16,s32,u32}")
def mul_hi(m: M, i: Instruction) -> None:
    d, a, b = i.operands
    product = _widened(m, a, i.kind) * _widened(m, b, i.kind)
    m.write(d, (product >> _bits(i.kind)).astype(TYPES[i.kind]))


@instruction("Integer Arithmetic: mad", "mad.wide.{s16,u16,s32,u32}")
def mad_wide(m: M, i: Instruction) -> None:
    d, a, b, c = i.operands
    product = _widened(m, a, i.kind) * _widened(m, b, i.kind)
    m.write(d, product + m.read(c, f"u{2 * _bits(i.kind)}").view(product.dtype))


@instruction("Integer Arithmetic: div, rem", "{div,rem}.{s32,u32}")
def divide(m: M, i: Instruction) -> None:
    d, a, b = i.operands
    x, y = (_typed(m, operand, i.kind).astype(np.int64) for operand in (a, b))
    if (m.of_active(y) == 0).any():
        raise PtxError("division by zero")
    y = np.where(y == 0, 1, y)
    quotient = np.abs(x) // np.abs(y) * np.sign(x) * np.sign(y)  # towards zero
    result = quotient if i.opcode.startswith("div") else x - quotient * y
    m.write(d, result.astype(np.uint32))


@instruction("Integer Arithmetic: bfe", "bfe.{u32,s32}")
def bfe(m: M, i: Instruction) -> None:
    d, a, position, length = i.operands
    bits = m.read(a).astype(np.int64)
    at, count = ((m.read(operand) & 0xFF).astype(np.int64) for operand in (position, length))
    field = (bits >> np.minimum(at, 63)) & ((1 << np.minimum(count, 32)) - 1)
    if i.kind == "s32":
        last = np.minimum(np.maximum(count - 1, 0) + at, 31)
        sign = np.where(count > 0, bits >> last & 1, 0)
        field = np.where(sign == 1, field | -1 << np.minimum(count, 32), field)
    m.write(d, (field & 0xFFFF_FFFF).astype(np.uint32))


@instruction("Integer Arithmetic: bfi", "bfi.b32")
def bfi(m: M, i: Instruction) -> None:
    d, a, b, position, length = i.operands
    at, count = ((m.read(operand) & 0xFF).astype(np.int64) for operand in (position, length))
    mask = ((1 << np.minimum(count, 32)) - 1) << np.minimum(at, 32)
    inserted = m.read(a).astype(np.int64) << np.minimum(at, 32)
    m.write(d, (m.read(b) & ~mask | inserted & mask & 0xFFFF_FFFF).astype(np.uint32))


@instruction("Logic and Shift: lop3", "lop3.b32")
def lop3(m: M, i: Instruction) -> None:
    d, a, b, c, table = i.operands
    result = np.zeros(m.lanes, np.uint32)
    for row in range(8):
        if table.value >> row & 1:
            terms = [
                m.read(operand) if row >> bit & 1 else ~m.read(operand)
                for operand, bit in zip((a, b, c), (2, 1, 0), strict=True)
            ]
            result |= terms[0] & terms[1] & terms[2]
    m.write(d, result)


@instruction("Logic and Shift: shl", "shl.{b16,b32,b64}")
def shl(m: M, i: Instruction) -> None:
    d, a, count = i.operands
    x, n, bits = m.read(a, i.kind), m.read(count), _bits(i.kind)
    shifted = x << np.minimum(n, bits - 1).astype(x.dtype)
    m.write(d, np.where(n < bits, shifted, 0).astype(x.dtype))


@instruction("Logic and Shift: shr", "shr.{b16,b32,b64,u16,u32,u64,s16,s32,s64}")
def shr(m: M, i: Instruction) -> None:
    d, a, count = i.operands
    x, n, bits = _typed(m, a, i.kind), m.read(count), _bits(i.kind)
    shifted = x >> np.minimum(n, bits - 1).astype(x.dtype)
    gone = shifted if i.kind[0] == "s" else np.zeros_like(x)  # a sign fills all bits
    m.write(d, np.where(n < bits, shifted, gone))


@instruction("Logic and Shift: shf", "shf.{l,r}.wrap.b32")
def shf(m: M, i: Instruction) -> None:
    d, a, b, count = i.operands
    both = m.read(a).astype(np.uint64) | m.read(b).astype(np.uint64) << np.uint64(32)
    n = (m.read(count) & 31).astype(np.uint64)
    if i.opcode.startswith("shf.l"):
        m.write(d, (both << n >> np.uint64(32)).astype(np.uint32))
    else:
        m.write(d, (both >> n).astype(np.uint32))


_COMPARE = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip


@instruction(
    "Comparison and Selection: setp",
    "setp.{eq,ne}.{b16,b32,b64}",
    "setp.{eq,ne,lt,le,gt,ge}.{s16,u16,s32,u32,s64,u64}",
    "setp.{lo,ls,hi,hs}.{u16,u32,u64}",
)
def setp_integer(m: M, i: Instruction) -> None:
    d, a, b = i.operands
    m.write(d, _COMPARE[i.opcode.split(".")[1]](_typed(m, a, i.kind), _typed(m, b, i.kind)))


@instruction(
    "Comparison and Selection: setp",
    "setp.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}.f32",
)
def setp_float(m: M, i: Instruction) -> None:
    d, a, b = i.operands
    x, y = m.number(a), m.number(b)
    nan, name = np.isnan(x) | np.isnan(y), i.opcode.split(".")[1]
    if name in ("nan", "num"):
        m.write(d, nan if name == "nan" else ~nan)
    else:
        holds = _COMPARE[name[:2]](x, y)
        m.write(d, holds | nan if len(name) == 3 else holds & ~nan)


@instruction(
    "Comparison and Selection: selp",
    "selp.{b16,b32,b64,u16,u32,u64,s16,s32,s64,f32}",
)
def selp(m: M, i: Instruction) -> None:
    d, a, b, chosen = i.operands
    m.write(d, np.where(m.read(chosen, "pred"), m.read(a, i.kind), m.read(b, i.kind)))
