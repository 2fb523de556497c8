"""Moving data: registers, global and shared memory, asynchronous copies."""

from __future__ import annotations

import numpy as np

from clinreadnet.kernels.ptx.errors import Misaligned, PtxError
from clinreadnet.kernels.ptx.instructions import instruction
from clinreadnet.kernels.ptx.machine import TYPES, Array
from clinreadnet.kernels.ptx.machine import Machine as M
from clinreadnet.kernels.ptx.memory import WORDS
from clinreadnet.kernels.ptx.program import Address, Instruction, Operand, Vector


@instruction("Data Movement and Conversion: mov", "mov.{pred,b16,b32,b64,u16,u32,u64,f32}")
def mov(m: M, i: Instruction) -> None:
    """Copy; pack registers if the source is a vector, unpack if the destination is."""
    d, a = i.operands
    if isinstance(d, Vector):
        value = np.ascontiguousarray(m.read(a, i.kind))
        size = value.dtype.itemsize // len(d.parts)
        columns = value.view(f"u{size}").reshape(m.lanes, -1)
        for place, part in enumerate(d.parts):
            m.write(part, columns[:, place].copy())
    elif isinstance(a, Vector):
        size = np.dtype(TYPES[i.kind]).itemsize
        kind = f"b{8 * size // len(a.parts)}"
        columns = np.stack([m.read_packed(part, kind) for part in a.parts], axis=1)
        m.write(d, columns.view(f"u{size}")[:, 0])
    else:
        m.write(d, m.read(a, i.kind))


@instruction("Data Movement and Conversion: prmt", "prmt.b32")
def prmt(m: M, i: Instruction) -> None:
    d, a, b, selector = i.operands
    low, high = (m.read_packed(operand).astype(np.uint64) for operand in (a, b))
    source = low | high << np.uint64(32)
    chosen, result = m.read(selector).astype(np.uint64), np.zeros(m.lanes, np.uint64)
    for place in range(4):
        nibble = chosen >> np.uint64(4 * place) & np.uint64(0xF)
        byte = source >> (nibble & np.uint64(7)) * np.uint64(8) & np.uint64(0xFF)
        sign = np.where(byte & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
        byte = np.where(nibble & np.uint64(8), sign, byte)
        result |= byte << np.uint64(8 * place)
    m.write(d, result.astype(np.uint32))


@instruction("Data Movement and Conversion: ld", "ld.param.{b32,u32,s32,b64,u64,s64}")
def load_parameter(m: M, i: Instruction) -> None:
    d, address = i.operands
    assert isinstance(address, Address) and isinstance(address.base, str)
    if address.base not in m.parameters or address.offset:
        raise PtxError(f"no parameter {address.base}")
    dtype = np.dtype(TYPES[i.kind])
    bits = m.parameters[address.base] & (2 ** (8 * dtype.itemsize) - 1)
    m.write(d, np.full(m.lanes, bits, dtype))


_VECTORS = "{global,shared}{,.v2,.v4}.{b16,b32,b64,u16,u32,f32}"


@instruction("Data Movement and Conversion: ld", f"ld.{_VECTORS}")
def load(m: M, i: Instruction) -> None:
    d, address = i.operands
    parts = m.parts(d)
    size = np.dtype(TYPES[i.kind]).itemsize
    where = m.of_active(m.addresses(address))
    if ".global" in i.opcode:
        words = m.memory.load(where, size * len(parts))
    else:
        words = m.shared.load(m.active(), where, size * len(parts))
    columns = words.view(f"u{size}").reshape(-1, len(parts))
    for place, part in enumerate(parts):
        m.write(part, m.of_all(columns[:, place]))


def _words(m: M, parts: tuple[Operand, ...], kind: str) -> Array:
    """Return the words that the active threads store, from all ``parts``."""
    columns = np.stack([m.of_active(m.read(part, kind)) for part in parts], axis=1)
    columns = np.ascontiguousarray(columns.astype(TYPES[kind], copy=False))
    size = columns.dtype.itemsize * len(parts)
    return columns.view(WORDS[size])[:, 0]


@instruction("Data Movement and Conversion: st", f"st.{_VECTORS}")
def store(m: M, i: Instruction) -> None:
    address, source = i.operands
    words = _words(m, m.parts(source), i.kind)
    where = m.of_active(m.addresses(address))
    if ".global" in i.opcode:
        m.memory.store(where, words, words.dtype.itemsize)
    else:
        m.shared.store(m.active(), where, words, words.dtype.itemsize)


@instruction(
    "Data Movement and Conversion: cp.async",
    "cp.async.ca.shared.global",
    "cp.async.cg.shared.global",
)
def copy(m: M, i: Instruction) -> None:
    """Copy the number of bytes in the fourth operand; fill the rest with zeros."""
    to, source, count = i.operands[:3]
    size = count.value
    if (size != 16 and ".cg" in i.opcode) or size not in (4, 8, 16):
        raise PtxError(f"{i.opcode} copies no {size} bytes")
    whole = m.of_active(m.read(i.operands[3])) if len(i.operands) > 3 else None
    threads, where = m.active(), m.of_active(m.addresses(source))
    if (where % size).any():
        raise Misaligned(f"copy of {size} bytes")
    words: Array = np.zeros(len(threads), WORDS[size])
    read = np.ones(len(threads), bool) if whole is None else whole > 0
    if whole is not None and ((whole != 0) & (whole != size)).any():
        raise PtxError("a copy of part of its bytes")
    if read.any():
        words[read] = m.memory.load(where[read], size)
    m.copies[-1].append(m.shared.copy(threads, m.of_active(m.addresses(to)), words, size))


@instruction("Data Movement and Conversion: cp.async.commit_group", "cp.async.commit_group")
def commit(m: M, i: Instruction) -> None:
    m.copies.append([])


@instruction("Data Movement and Conversion: cp.async.wait_group", "cp.async.wait_group")
def wait(m: M, i: Instruction) -> None:
    (left,) = i.operands
    _finish(m, max(0, len(m.copies) - 1 - left.value))


@instruction("Data Movement and Conversion: cp.async.wait_all", "cp.async.wait_all")
def wait_all(m: M, i: Instruction) -> None:
    m.copies.append([])
    _finish(m, len(m.copies) - 1)


def _finish(m: M, count: int) -> None:
    """End the copies of the first groups."""
    for group in m.copies[:count]:
        for granules, threads in group:
            m.shared.arrive(granules, threads)
    del m.copies[:count]
