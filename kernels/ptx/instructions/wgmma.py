"""Asynchronous products of a warp group (four warps), with operands in shared memory.

Registers and memory that a product reads or writes are reserved until it has been waited for. The
machine multiplies at once and publishes the result at the wait.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clinreadnet.kernels.ptx.errors import Misaligned, NotWaited, PtxError
from clinreadnet.kernels.ptx.instructions import instruction
from clinreadnet.kernels.ptx.instructions.tensor import (
    TERMS,
    left_rows,
    multiply,
    numbers,
    registers_of,
    tile,
)
from clinreadnet.kernels.ptx.machine import Array, InFlight
from clinreadnet.kernels.ptx.machine import Machine as M
from clinreadnet.kernels.ptx.program import Instruction, Operand, Register
from clinreadnet.kernels.ptx.shared import WARP

GROUP = 4 * WARP
ROWS = 64
WORD = 16
"""Bytes of a piece, the unit of a layout in shared memory."""


@dataclass(frozen=True)
class Descriptor:
    """A matrix in shared memory ("Matrix Descriptor Format" in the manual).

    Attributes:
        start: start address.
        leading: bytes from one repetition of the layout to the next, along its rows.
        stride: bytes between groups of eight rows.
        row: bytes per row of the swizzled pattern; 16 without a swizzle.
    """

    start: Array
    leading: Array
    stride: Array
    row: int


@dataclass(frozen=True)
class Use:
    """Registers and memory that a product reserves until it has been waited for.

    Attributes:
        registers: current values by index: operands, and results that are `InFlight`.
        granules: granules of shared memory.
    """

    registers: dict[int, Any] = field(default_factory=dict)
    granules: Array = field(default_factory=lambda: np.zeros(0, np.int64))


def described(m: M, operand: Operand) -> Descriptor:
    """Decode the descriptor of each warp group."""
    bits = m.read(operand, "b64").reshape(-1, GROUP)
    if (bits != bits[:, :1]).any():
        raise PtxError("threads of a warp group give different descriptors")
    bits = bits[:, 0].astype(np.int64)
    modes = np.unique(bits >> 62 & 3)
    if len(modes) != 1 or (bits >> 49 & 7).any():
        raise PtxError("descriptors with a base offset, or of several swizzles")
    row = {0: 16, 1: 128, 2: 64, 3: 32}[int(modes[0])]
    start, leading, stride = ((bits >> at & 0x3FFF) << 4 for at in (0, 16, 32))
    return Descriptor(start, leading, stride, row)


def swizzled(address: Array, row: int) -> Array:
    """Return the address of a piece after swizzling, which permutes the pieces of a row."""
    return address ^ (address >> 3 & (row - 1) & ~15)


def pieces(tile: Descriptor, rows: int, across: int, *, transposed: bool) -> Array:
    """Return the addresses [groups, rows, across] of the pieces of a matrix.

    A row has ``across`` pieces along K. If transposed, ``rows`` is K, and a row has ``across``
    pieces along the other dimension.
    """
    r, j = np.arange(rows)[:, None], np.arange(across)[None, :]
    start, leading, stride = (x[:, None, None] for x in (tile.start, tile.leading, tile.stride))
    if transposed:
        held = tile.row // WORD  # pieces of a row before the layout repeats
        address = start + r // 8 * stride + r % 8 * tile.row + j // held * leading + j % held * WORD
    elif tile.row == WORD:
        address = start + r // 8 * stride + r % 8 * WORD + j * leading
    else:
        address = start + r // 8 * stride + r % 8 * tile.row + j * WORD
    return swizzled(address, tile.row)


def stored(m: M, operand: Operand, rows: int, k: int, kind: str, *, transposed: bool) -> Array:
    """Load a matrix [groups, rows, k] from shared memory and mark it as being read."""
    tile = described(m, operand)
    size = 4 if kind == "tf32" else 2
    if (tile.start % WORD).any():
        raise Misaligned("a matrix that does not start at a multiple of 16 bytes")
    if transposed:
        where = pieces(tile, k, rows * size // WORD, transposed=True)
    else:
        where = pieces(tile, rows, k * size // WORD, transposed=False)
    groups = len(where)
    blocks = np.arange(groups, dtype=np.int32) * GROUP // m.threads
    words, granules = m.shared.read_matrix(blocks, where.reshape(groups, -1))
    m.products[-1].append(Use(granules=granules))
    values = numbers(words.view(np.uint32).reshape(*where.shape, WORD // 4), kind)
    values = values.reshape(groups, where.shape[1], -1)
    return values.transpose(0, 2, 1) if transposed else values


@instruction(
    "Asynchronous Warpgroup Level Matrix Instructions: wgmma.mma_async",
    "wgmma.mma_async.sync.aligned.m64n{8,16,24,32,48,64,96,128,256}k16.f32.f16.f16",
    "wgmma.mma_async.sync.aligned.m64n{8,16,24,32,48,64,96,128,256}k16.f32.bf16.bf16",
    "wgmma.mma_async.sync.aligned.m64n{8,16,24,32,48,64,96,128,256}k8.f32.tf32.tf32",
)
def mma_async(m: M, i: Instruction) -> None:
    d, a, b, accumulate, *numbers_ = i.operands
    kind = i.kind
    columns, k = (int(item) for item in i.opcode.split(".m64n")[1].split(".")[0].split("k"))
    scale_a, scale_b, *flips = (item.value for item in numbers_)
    if (scale_a, scale_b) != (1, 1):
        raise PtxError("a product with a negated operand")
    registers: tuple[Any, ...] = m.parts(d)
    left: tuple[Any, ...] = m.parts(a)
    held = len(left) == 4  # in registers
    flip_a, flip_b = (0, *flips) if held and flips else tuple(flips) or (0, 0)
    keep = m.read(accumulate, "pred").reshape(-1, GROUP)[:, :1, None]
    read = [item for item in left if held]
    if keep.any():
        read += registers
        total = np.where(keep, _accumulator(m, registers), 0.0)
    else:
        total = np.zeros((m.lanes // GROUP, ROWS, columns))
    _fenced(m, read)
    if held:
        rows = left_rows(m, left, kind).reshape(-1, ROWS, k)
    else:
        rows = stored(m, a, ROWS, k, kind, transposed=bool(flip_a))
    right = stored(m, b, columns, k, kind, transposed=bool(flip_b)).transpose(0, 2, 1)
    result = multiply(rows, right, total, TERMS[kind])
    for register, values in zip(registers, registers_of(result), strict=True):
        m.registers[register.index] = InFlight(values.view(np.uint32))
    use = Use({item.index: m.registers[item.index] for item in (*registers, *read)})
    m.products[-1].append(use)


def _fenced(m: M, used: list[Any]) -> None:
    """Check that registers have not changed since ``wgmma.fence``, except by products."""
    for use in used:
        now = m.registers[use.index]
        if not isinstance(now, InFlight) and id(now) not in m.fenced:
            raise NotWaited(f"{use.name} changed after the last wgmma.fence")


def _accumulator(m: M, registers: tuple[Register, ...]) -> Array:
    """Return registers as [groups, 64, columns] float64."""
    values = []
    for register in registers:
        value = m.registers[register.index]
        values.append(value.value if isinstance(value, InFlight) else m.read(register, "f32"))
    return tile(values).reshape(-1, ROWS, 2 * len(values))


@instruction(
    "Asynchronous Warpgroup Level Matrix Instructions: wgmma.fence", "wgmma.fence.sync.aligned"
)
def fence(m: M, i: Instruction) -> None:
    m.fenced = {id(value): value for value in m.registers}


@instruction(
    "Asynchronous Warpgroup Level Matrix Instructions: wgmma.commit_group",
    "wgmma.commit_group.sync.aligned",
)
def commit(m: M, i: Instruction) -> None:
    m.products.append([])


@instruction(
    "Asynchronous Warpgroup Level Matrix Instructions: wgmma.wait_group",
    "wgmma.wait_group.sync.aligned",
)
def wait(m: M, i: Instruction) -> None:
    done = max(0, len(m.products) - 1 - i.operands[-1].value)
    for group in m.products[:done]:
        for use in group:
            m.shared.release(use.granules)
            for index, value in use.registers.items():
                now = m.registers[index]
                if now is value and isinstance(now, InFlight):
                    m.registers[index] = now.value
                elif now is not value and not isinstance(now, InFlight):
                    raise NotWaited("a register changed while a product used it")
    del m.products[:done]
