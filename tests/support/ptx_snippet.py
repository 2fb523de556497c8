"""A few instructions as a kernel, to test the PTX machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clinreadnet.kernels.ptx.machine import Machine
from clinreadnet.kernels.ptx.memory import GlobalMemory
from clinreadnet.kernels.ptx.parse import parse
from clinreadnet.kernels.ptx.program import Program, Register

FILES = {"%p": ("pred", 8), "%h": ("b16", 8), "%r": ("b32", 64), "%d": ("b64", 32)}
"""Registers of every snippet by their prefix: type and number."""


def snippet(body: str, *, threads: int = 32, parameters: Sequence[str] = ()) -> Program:
    """Return ``body`` as a program.

    Args:
        body: instructions, one a line; the final ``ret`` is added.
        threads: threads of a block.
        parameters: names of 64-bit parameters.
    """
    declared = "".join(f".reg .{kind} {name}<{n}>;\n" for name, (kind, n) in FILES.items())
    arguments = ", ".join(f".param .u64 {name}" for name in parameters)
    text = f".entry snippet({arguments})\n.reqntid {threads}\n{{\n{declared}{body}\nret;\n}}\n"
    return parse(text, "snippet")


def place(register: str) -> int:
    """Return the machine's number of a register such as ``%r3``."""
    first = 0
    for prefix, (_, count) in FILES.items():
        if register.startswith(prefix):
            return first + int(register.removeprefix(prefix))
        first += count
    raise KeyError(register)


def registers_after(
    body: str,
    before: Mapping[str, NDArray[np.generic]],
    *,
    threads: int = 32,
    shared: int = 0,
) -> Mapping[str, NDArray[np.generic]]:
    """Run a snippet of one block on registers.

    Args:
        body: instructions.
        before: values of registers, a number for each thread.
        threads: threads of the block.
        shared: bytes of shared memory.

    Returns:
        The values of the registers that were written.
    """
    program = snippet(body, threads=threads)
    machine = Machine(program, (), 1, range(1), shared, GlobalMemory())
    for name, values in before.items():
        machine.registers[place(name)] = np.ascontiguousarray(values)
    machine.run()
    operands = (operand for step in program.code for operand in flat(step.operands))
    named = {operand.name for operand in operands if isinstance(operand, Register)}
    return {name: value for name in named if (value := machine.registers[place(name)]) is not None}


def flat(operands: Sequence[object]) -> list[object]:
    """Return the operands, with vectors replaced by their parts."""
    return [part for operand in operands for part in Machine.parts(operand)]


def memory_after(body: str, *, threads: int = 32, shared: int = 0, blocks: int = 1) -> NDArray:
    """Run a snippet on parameters ``x`` and ``out``, each a 32-bit word for each thread of a block.

    ``%d0`` is the address of x, ``%d1`` that of out, ``%r0`` the thread, ``%r1`` its offset in
    bytes; ``%d2`` and ``%d3`` are the thread's own words.

    Returns:
        out, uint32 [threads]; x holds 100 + the number of the thread.
    """
    begin = """
        ld.param.u64 %d0, [x];
        ld.param.u64 %d1, [out];
        mov.u32 %r0, %tid.x;
        shl.b32 %r1, %r0, 2;
        cvt.u64.u32 %d4, %r1;
        add.s64 %d2, %d0, %d4;
        add.s64 %d3, %d1, %d4;
    """
    program = snippet(begin + body, threads=threads, parameters=("x", "out"))
    memory = GlobalMemory()
    x = np.arange(100, 100 + threads, dtype=np.uint32)
    arguments = memory.put("x", x), memory.put("out", np.zeros_like(x), output=True)
    Machine(program, arguments, blocks, range(blocks), shared, memory).run()
    out: NDArray = memory.fetch("out", x)
    return out
