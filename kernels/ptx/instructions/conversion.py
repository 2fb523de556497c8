"""Conversions between types."""

from __future__ import annotations

import numpy as np

from clinreadnet.kernels.ptx.instructions import instruction
from clinreadnet.kernels.ptx.instructions.floating import widened
from clinreadnet.kernels.ptx.machine import Array
from clinreadnet.kernels.ptx.machine import Machine as M
from clinreadnet.kernels.ptx.program import Instruction


def narrowed(x: Array, kind: str) -> Array:
    """Round float32 numbers to f16 or bf16, ties to even; return their bits."""
    if kind == "f16":
        return x.astype(np.float16).view(np.uint16)
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), rounded).astype(np.uint16)


@instruction("Data Movement and Conversion: cvt", "cvt.rn.{f16,bf16}.f32")
def narrow(m: M, i: Instruction) -> None:
    d, a = i.operands
    m.write(d, narrowed(m.number(a), i.opcode.split(".")[2]))


@instruction("Data Movement and Conversion: cvt", "cvt.rn.{f16x2,bf16x2}.f32")
def narrow_two(m: M, i: Instruction) -> None:
    """The first operand becomes the upper half."""
    d, high, low = i.operands
    kind = i.opcode.split(".")[2].removesuffix("x2")
    upper, lower = (narrowed(m.number(operand), kind).astype(np.uint32) for operand in (high, low))
    m.write(d, upper << np.uint32(16) | lower)


@instruction("Data Movement and Conversion: cvt", "cvt.f32.{f16,bf16}")
def widen(m: M, i: Instruction) -> None:
    d, a = i.operands
    m.write(d, widened(m.read(a, i.kind), i.kind))


@instruction("Data Movement and Conversion: cvt", "cvt.rna.tf32.f32")
def to_tf32(m: M, i: Instruction) -> None:
    """Round to 10 bits of significand, ties away from zero."""
    d, a = i.operands
    bits = m.read(a, "f32")
    m.write(d, (bits + np.uint32(0x1000)) & np.uint32(0xFFFF_E000))


@instruction(
    "Data Movement and Conversion: cvt",
    "cvt.{u16,s16,u32,s32,u64,s64}.{u16,s16,u32,s32,u64,s64}",
)
def integer(m: M, i: Instruction) -> None:
    d, a = i.operands
    to, kind = i.opcode.split(".")[1:]
    value = m.signed(a, kind) if kind[0] == "s" else m.read(a, kind)
    m.write(d, value.astype(f"u{int(to[1:]) // 8}"))


@instruction("Data Movement and Conversion: cvt", "cvt.rn.f32.{s32,u32}")
def from_integer(m: M, i: Instruction) -> None:
    d, a = i.operands
    value = m.signed(a, i.kind) if i.kind == "s32" else m.read(a, i.kind)
    m.write(d, value.astype(np.float32))
