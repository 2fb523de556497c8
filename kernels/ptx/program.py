"""Types of a parsed PTX program."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Register:
    """A register, by its index in the machine."""

    index: int
    name: str


@dataclass(frozen=True)
class Immediate:
    """A literal number; for a float, its bits."""

    value: int


@dataclass(frozen=True)
class Special:
    """A register that the hardware sets, such as ``%tid.x``."""

    name: str


@dataclass(frozen=True)
class Address:
    """``[base + offset]``; the base is a register, a parameter or shared memory."""

    base: Register | str
    offset: int


@dataclass(frozen=True)
class Vector:
    """``{a, b, ...}``."""

    parts: tuple[Operand, ...]


@dataclass(frozen=True)
class Name:
    """A label, or the address of shared memory."""

    text: str


Operand = Register | Immediate | Special | Address | Vector | Name

SHARED_MEMORY = "global_smem"
"""Triton's name for the dynamic shared memory of a block."""


@dataclass(frozen=True)
class Instruction:
    """An instruction.

    Attributes:
        line: line number in the file, from 1.
        text: text of the line.
        opcode: opcode with all modifiers, such as "add.s32".
        operands: operands in order.
        guard: predicate that selects the threads, or None.
        negated: whether the guard is ``@!``.
        run: function from `instructions`.
        target: position of a branch's target.
        together: scope of threads that must run it together: "thread", "warp", "block", or "launch"
            for groups of asynchronous work, which are counted for all blocks at once.
    """

    line: int
    text: str
    opcode: str
    operands: tuple[Any, ...]
    guard: Register | None = None
    negated: bool = False
    run: Callable[[Any, Any], None] = field(repr=False, default=lambda machine, instruction: None)
    target: int = -1
    together: str = "thread"

    @property
    def kind(self) -> str:
        """Last part of the opcode, which is the type for most instructions."""
        return self.opcode.rpartition(".")[2]

    @property
    def access_bytes(self) -> int:
        """Bytes per thread of an access to global or shared memory; 0 without an access."""
        if self.opcode.startswith("cp.async.c") and len(self.operands) > 2:
            return int(self.operands[2].value)
        if self.opcode.startswith(("ld.global", "ld.shared", "st.")):
            match = re.search(r"\.v(\d)", self.opcode)
            return int(self.kind[1:]) // 8 * (int(match[1]) if match else 1)
        return 16 if self.opcode.startswith(("ldmatrix", "stmatrix", "wgmma.mma")) else 0


@dataclass(frozen=True)
class Program:
    """A parsed kernel.

    Attributes:
        entry: name of the kernel.
        target: architecture in the text, such as "sm_90a".
        parameters: names of the parameters, in order.
        threads: threads per block.
        code: instructions.
        registers: number of declared registers.
    """

    entry: str
    target: str
    parameters: tuple[str, ...]
    threads: int
    code: tuple[Instruction, ...]
    registers: int

    @cached_property
    def narrowest(self) -> int:
        """Bytes of the narrowest access to shared memory, at most 16."""
        shared = (i for i in self.code if not i.opcode.startswith(("ld.global", "st.global")))
        return min((i.access_bytes for i in shared if i.access_bytes), default=16)

    def with_instruction(self, place: int, changed: Instruction | None) -> Program:
        """Return the program with an instruction replaced or removed."""
        if changed is None:
            now = self.code[place]
            changed = replace(now, opcode="nop", operands=(), guard=None, run=lambda m, i: None)
        return replace(self, code=(*self.code[:place], changed, *self.code[place + 1 :]))
