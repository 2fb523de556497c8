"""Matrix instructions of a warp.

A tensor core multiplies exactly and rounds each sum towards zero (Fasi et al. 2021, "Numerical
behavior of NVIDIA tensor cores"). It adds the products of four 32-bit words at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinreadnet.kernels.ptx.instructions import instruction
from clinreadnet.kernels.ptx.instructions.floating import widened
from clinreadnet.kernels.ptx.machine import Array
from clinreadnet.kernels.ptx.machine import Machine as M
from clinreadnet.kernels.ptx.program import Instruction, Operand
from clinreadnet.kernels.ptx.shared import WARP


def cut(x: Array) -> Array:
    """Round float64 to float32 towards zero."""
    nearest = x.astype(np.float32)
    over = np.abs(nearest.astype(np.float64)) > np.abs(x)
    return np.where(over, np.nextafter(nearest, np.float32(0)), nearest)


def multiply(a: Array, b: Array, total: Array, terms: int) -> Array:
    """Compute total + a @ b for [..., M, K] and [..., K, N], ``terms`` products at a time."""
    for k in range(0, a.shape[-1], terms):
        total = cut(total + np.matmul(a[..., k : k + terms], b[..., k : k + terms, :]))
    return total


def numbers(bits: Array, kind: str) -> Array:
    """Convert 32-bit words [..., words] (one tf32 or two halves each) to float64 [..., n]."""
    words = np.ascontiguousarray(bits)
    if kind == "tf32":
        kept = words & np.uint32(0xFFFF_E000)  # the hardware ignores the other bits
        return kept.view(np.float32).astype(np.float64)
    return widened(words.view(np.uint16), kind).astype(np.float64)


TERMS = {"tf32": 4, "f16": 8, "bf16": 8}


def fragment(m: M, parts: tuple[Operand, ...], kind: str) -> Array:
    """Return registers as [warps, parts, 8, n]: row (lane / 4) and numbers of four lanes."""
    words = [m.read(part).reshape(-1, 8, 4) for part in parts]
    return numbers(np.stack(words, axis=1), kind)


def left_rows(m: M, parts: tuple[Operand, ...], kind: str) -> Array:
    """Return the four registers of A as [warps, 16, K]."""
    left = fragment(m, parts, kind)
    # Upper and lower rows of the left half, then of the right half.
    rows = np.concatenate([left[:, 0::2], left[:, 1::2]], axis=2)  # [warps, 2, 16, K / 2]
    return np.concatenate([rows[:, 0], rows[:, 1]], axis=2)


def tile(values: Sequence[Array]) -> Array:
    """Return registers of sums, four for 16 rows and 8 columns, as float64 [warps, 16, columns]."""
    shape = (values[0].size // WARP, 2, 8, len(values) // 4, 4, 2)
    total = np.empty(shape)  # [warp, half, row, group of columns, pair, column]
    for place, value in enumerate(values):
        held = value.view(np.float32).reshape(-1, 8, 4)
        total[:, place // 2 % 2, :, place // 4, :, place % 2] = held
    return total.reshape(shape[0], 16, -1)


def registers_of(result: Array) -> list[Array]:
    """Inverse of ``tile``: float32 values of each thread by register."""
    columns = result.shape[-1]
    parts = result.reshape(-1, 2, 8, columns // 8, 4, 2)
    return [
        parts[:, place // 2 % 2, :, place // 4, :, place % 2].astype(np.float32).reshape(-1)
        for place in range(columns // 2)
    ]


@instruction(
    "Warp Level Matrix Instructions: mma",
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
)
def mma(m: M, i: Instruction) -> None:
    """Compute D [16, 8] = A [16, K] B [K, 8] + C, with the thread layout of the manual."""
    d, a, b, c = (m.parts(operand) for operand in i.operands)
    kind = i.opcode.split(".")[-2]
    right = fragment(m, b, kind)  # [warps, 2, 8, K / 2], transposed
    columns = np.concatenate([right[:, 0], right[:, 1]], axis=2).transpose(0, 2, 1)
    total = tile([m.read(part, "f32") for part in c])
    result = multiply(left_rows(m, a, kind), columns, total, TERMS[kind])
    for register, values in zip(d, registers_of(result), strict=True):
        m.write(register, values)


def _rows(m: M, address: Array, count: int) -> tuple[Array, Array]:
    """Return threads with row addresses, and the addresses: 8 for each of ``count`` matrices."""
    giving = m.all_threads.reshape(-1, WARP)[:, : 8 * count]
    if m.mask is not None:
        giving = giving[m.mask.reshape(-1, WARP)[:, 0]]
    return giving.reshape(-1), address[giving.reshape(-1)]


@instruction(
    "Warp Level Matrix Instructions: ldmatrix",
    "ldmatrix.sync.aligned.m8n8.{x1,x2,x4}{,.trans}.shared.b16",
)
def ldmatrix(m: M, i: Instruction) -> None:
    d, address = i.operands
    registers = m.parts(d)
    threads, where = _rows(m, m.addresses(address), len(registers))
    words = m.shared.load(threads, where, 16)
    matrices = words.view(np.uint16).reshape(-1, len(registers), 8, 8)  # [warps, x, row, column]
    if ".trans" in i.opcode:
        matrices = matrices.transpose(0, 1, 3, 2)
    held = np.ascontiguousarray(matrices).view(np.uint32).reshape(-1, len(registers), WARP)
    for place, register in enumerate(registers):
        m.write(register, m.of_all(held[:, place].reshape(-1)))


@instruction(
    "Warp Level Matrix Instructions: stmatrix",
    "stmatrix.sync.aligned.m8n8.{x1,x2,x4}{,.trans}.shared.b16",
)
def stmatrix(m: M, i: Instruction) -> None:
    address, source = i.operands
    registers = m.parts(source)
    threads, where = _rows(m, m.addresses(address), len(registers))
    held = np.stack(
        [m.of_active(m.read(register)).reshape(-1, WARP) for register in registers], axis=1
    )
    matrices = np.ascontiguousarray(held).view(np.uint16).reshape(-1, len(registers), 8, 8)
    if ".trans" in i.opcode:
        matrices = matrices.transpose(0, 1, 3, 2)
    rows = np.ascontiguousarray(matrices).reshape(-1, 8)
    m.shared.store(threads, where, rows.view(np.complex128)[:, 0], 16)
