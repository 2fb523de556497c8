"""A program of PTX: instructions, with registers by number and operands read once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Register:
    """One of the program's registers, by its place in the machine's list."""

    index: int
    name: str


@dataclass(frozen=True)
class Immediate:
    """A number in the text; of a float, its bits."""

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
    """A label, or shared memory's address."""

    text: str


Operand = Register | Immediate | Special | Address | Vector | Name

SHARED_MEMORY = "global_smem"
"""Triton's name for the dynamic shared memory of a block."""


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        line: number in the file, from 1.
        text: as it stands there.
        opcode: with all modifiers, such as "add.s32".
        operands: in order.
        guard: predicate that decides which threads run it, or None.
        negated: whether the guard is ``@!``.
        run: the function of `instructions` that runs it.
        target: place in the program that a branch leads to.
        together: what must run it together: "thread", "warp", "block", or "launch" where the
            machine counts groups of asynchronous work for all blocks at once.
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
        """The opcode's last part, which is the type of most instructions."""
        return self.opcode.rpartition(".")[2]

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory that a thread accesses as one; 0 where there is no access."""
        if self.opcode.startswith("cp.async.c") and len(self.operands) > 2:
            return int(self.operands[2].value)
        if self.opcode.startswith(("ld.shared", "st.shared")):
            match = re.search(r"\.v(\d)", self.opcode)
            return int(self.kind[1:]) // 8 * (int(match[1]) if match else 1)
        return 16 if self.opcode.startswith(("ldmatrix", "stmatrix", "wgmma.mma")) else 0


@dataclass(frozen=True)
class Program:
    """One kernel.

    Attributes:
        entry: its name.
        target: architecture that the text names, such as "sm_90a".
        parameters: names, in order.
        threads: of a block.
        code: its instructions.
        registers: how many it declares.
    """

    entry: str
    target: str
    parameters: tuple[str, ...]
    threads: int
    code: tuple[Instruction, ...]
    registers: int

    @cached_property
    def narrowest(self) -> int:
        """Bytes of the narrowest access to shared memory, 16 at most."""
        return min(
            (instruction.shared_bytes for instruction in self.code if instruction.shared_bytes),
            default=16,
        )

    def with_instruction(self, place: int, changed: Instruction | None) -> Program:
        """Return the program with one instruction replaced, or left out."""
        if changed is None:
            now = self.code[place]
            changed = replace(now, opcode="nop", operands=(), guard=None, run=lambda m, i: None)
        return replace(self, code=(*self.code[:place], changed, *self.code[place + 1 :]))
