"""Threads of some blocks, one instruction at a time.

All threads run together while they agree where the program goes on. Where they part, those at the
lowest place run first, until they meet others. An instruction that needs all threads of a warp, a
block or the launch waits for them, wherever in the program they come from: a loop's first
instruction may stand above its last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.kernels.ptx.errors import Divergence, Endless, NotWaited, PtxError, Unwritten
from clinreadnet.kernels.ptx.memory import GlobalMemory
from clinreadnet.kernels.ptx.program import (
    SHARED_MEMORY,
    Address,
    Immediate,
    Instruction,
    Name,
    Operand,
    Program,
    Register,
    Special,
    Vector,
)
from clinreadnet.kernels.ptx.shared import WARP, SharedMemory

Array = NDArray[Any]

TYPES = {
    "b16": np.uint16, "u16": np.uint16, "s16": np.uint16, "f16": np.uint16, "bf16": np.uint16,
    "b32": np.uint32, "u32": np.uint32, "s32": np.uint32, "f32": np.uint32, "tf32": np.uint32,
    "f16x2": np.uint32, "bf16x2": np.uint32,
    "b64": np.uint64, "u64": np.uint64, "s64": np.uint64, "f32x2": np.uint64,
    "pred": np.bool_,
}  # fmt: skip
"""What holds the bits of a PTX type."""

GARBAGE = 0xDEAD_BEEF_DEAD_BEEF
"""What a register holds that nothing has written."""

STEPS = 400_000
"""Instructions after which a kernel is taken to loop for ever."""


SINK = Name("_")
"""The operand that takes what a program does not want."""


class InFlight:
    """A register's value that an asynchronous product has yet to write."""

    def __init__(self, value: Array):
        self.value = value


class Machine:
    """Some blocks of a launch.

    Args:
        program: what they run.
        arguments: values of its parameters, in order.
        grid: blocks of the whole launch.
        blocks: the numbers of those that run here.
        shared: bytes of shared memory of a block.
        memory: global memory.
    """

    def __init__(
        self,
        program: Program,
        arguments: Sequence[int],
        grid: int,
        blocks: range,
        shared: int,
        memory: GlobalMemory,
    ):
        self.program, self.memory = program, memory
        self.parameters = dict(zip(program.parameters, arguments, strict=True))
        self.threads = program.threads
        self.lanes = len(blocks) * program.threads
        self.shared = SharedMemory(shared, len(blocks), program.threads, program.narrowest)
        self.registers: list[Any] = [None] * program.registers
        self.mask: Array | None = None
        """Threads that run the present instruction; None for all."""
        self.all_threads = np.arange(self.lanes, dtype=np.int32)
        self.copies: list[list[tuple[Array, Array]]] = [[]]
        """Asynchronous copies, in groups; the last group is not committed yet."""
        self.products: list[list[Any]] = [[]]
        """Asynchronous products likewise, and what they still use."""
        self.fenced: dict[int, Any] = {}
        """What the registers held at the last ``wgmma.fence``, by identity."""
        self.executed: set[int] = set()
        """Places of the program that some thread has run."""
        thread = np.tile(np.arange(self.threads, dtype=np.uint32), len(blocks))
        block = np.repeat(np.array(blocks, np.uint32), self.threads)
        zero = np.zeros(self.lanes, np.uint32)
        self._special = {
            "%tid.x": thread,
            "%tid.y": zero,
            "%tid.z": zero,
            "%ctaid.x": block,
            "%ctaid.y": zero,
            "%ctaid.z": zero,
            "%ntid.x": np.full(self.lanes, self.threads, np.uint32),
            "%nctaid.x": np.full(self.lanes, grid, np.uint32),
            "%laneid": thread % WARP,
        }
        self._numbers: dict[tuple[int, Any], Array] = {}
        self._spans = {"thread": 1, "warp": WARP, "block": self.threads, "launch": self.lanes}

    # Registers.

    def read(self, operand: Operand, kind: str = "b32") -> Array:
        """Bits of an operand of a PTX type, one number for each thread."""
        if operand.__class__ is Register:
            value = self.registers[operand.index]
            if value.__class__ is not np.ndarray:
                if value is None:
                    raise Unwritten(f"reads {operand.name}, which nothing has written")
                raise PtxError(f"uses {operand.name} before wgmma.wait_group")
            return value
        dtype = TYPES[kind]
        if isinstance(operand, Immediate):
            key = operand.value, dtype
            if key not in self._numbers:
                if dtype is np.bool_:
                    number = bool(operand.value)
                else:
                    number = operand.value & (2 ** (8 * np.dtype(dtype).itemsize) - 1)
                self._numbers[key] = np.full(self.lanes, number, dtype)
            return self._numbers[key]
        if isinstance(operand, Special) and operand.name in self._special:
            return self._special[operand.name]
        if isinstance(operand, Name) and operand.text == SHARED_MEMORY:
            return np.zeros(self.lanes, dtype)
        raise PtxError(f"an operand that the machine does not know: {operand}")

    def read_packed(self, operand: Operand, kind: str = "b32") -> Array:
        """As ``read``, for part of a word: the compiler fills one with what nothing has written."""
        if isinstance(operand, Register) and self.registers[operand.index] is None:
            return np.full(self.lanes, GARBAGE, np.uint64).astype(TYPES[kind])
        return self.read(operand, kind)

    def signed(self, operand: Operand, kind: str) -> Array:
        """An operand as signed integers."""
        bits = self.read(operand, kind)
        return bits.view(np.dtype(f"i{bits.dtype.itemsize}"))

    def number(self, operand: Operand) -> Array:
        """A float32 operand."""
        return self.read(operand, "f32").view(np.float32)

    def write(self, operand: Operand, value: Array) -> None:
        """Set a register of the active threads to the bits of ``value``."""
        if operand == SINK:
            return
        assert isinstance(operand, Register)
        if value.dtype.kind in "if":
            value = value.view(np.dtype(f"u{value.dtype.itemsize}"))
        if self.mask is not None:
            before = self.registers[operand.index]
            if before.__class__ is not np.ndarray:
                before = np.full(self.lanes, GARBAGE, np.uint64).astype(value.dtype)
            value = np.where(self.mask, value, before)
        self.registers[operand.index] = value

    @staticmethod
    def parts(operand: Operand) -> tuple[Operand, ...]:
        """The operands of a vector, or the one that there is."""
        return operand.parts if isinstance(operand, Vector) else (operand,)

    # Addresses.

    def active(self) -> NDArray[np.int32]:
        """Numbers of the active threads."""
        return self.all_threads if self.mask is None else np.flatnonzero(self.mask).astype(np.int32)

    def of_active(self, values: Array) -> Array:
        """The values of the active threads."""
        return values if self.mask is None else values[self.mask]

    def addresses(self, operand: Address) -> NDArray[np.int64]:
        """An address of all threads."""
        if isinstance(operand.base, Register):
            base = self.read(operand.base)
        else:
            base = self.read(Name(operand.base), "b32")
        return base.astype(np.int64) + operand.offset

    # Control.

    def run(self) -> int:
        """Run until all threads have returned, and count instructions.

        Raises:
            PtxError: with the line of the instruction at fault.
        """
        self._exited = np.zeros(self.lanes, bool)
        self._waiting: dict[int, Array] = {0: np.ones(self.lanes, bool)}
        self._steps = 0
        with np.errstate(all="ignore"):
            while self._waiting:
                self._advance(*self._choose())
        if any(self.copies) or any(self.products):
            raise NotWaited("returns while asynchronous work is under way")
        return self._steps

    def _choose(self) -> tuple[int, Array]:
        """Take the threads to go on with: those at the lowest place that wait for no others."""
        for place in sorted(self._waiting):
            mask = self._waiting[place]
            ready = self._ready(self.program.code[place], mask)
            if ready.any():
                del self._waiting[place]
                if (left := mask & ~ready).any():
                    self._waiting[place] = left
                return place, ready
        place = min(self._waiting)
        instruction = self.program.code[place]
        raise Divergence(
            f"{int(self._waiting[place].sum())} threads wait for others that never come",
            instruction.line,
            instruction.text,
        )

    def _ready(self, instruction: Instruction, mask: Array) -> Array:
        """Those of ``mask`` whose partners in ``one`` have arrived too."""
        span = self._spans[instruction.together]
        if span == 1:
            return mask
        here = mask.reshape(-1, span).sum(axis=1)
        alive = (
            span
            if instruction.opcode == "bar.sync"
            else (~self._exited).reshape(-1, span).sum(axis=1)
        )
        return mask & np.repeat(here == alive, span)

    def _advance(self, place: int, mask: Array) -> None:
        """Run the threads of ``mask`` until they part, return, wait or meet others."""
        code = self.program.code
        together = bool(mask.all())
        first = True
        while True:
            instruction = code[place]
            if (
                not together
                and not first
                and (place in self._waiting or instruction.together != "thread")
            ):
                self._wait(place, mask)
                return
            first = False
            self._steps += 1
            if self._steps > STEPS:
                raise Endless(
                    f"runs {STEPS} instructions and has not returned",
                    instruction.line,
                    instruction.text,
                )
            self.mask = None if together else mask
            if instruction.guard is not None:
                chosen = self.read(instruction.guard, "pred") ^ instruction.negated
                if not together:
                    chosen = chosen & mask
                self.mask = None if chosen.all() else chosen
                if not chosen.any():
                    place += 1
                    continue
                if self.mask is not None and instruction.together != "thread":
                    groups = chosen.reshape(-1, self._spans[instruction.together])
                    if (groups.any(axis=1) & ~groups.all(axis=1)).any():
                        raise Divergence(
                            "some threads of a group skip it", instruction.line, instruction.text
                        )
            self.executed.add(place)
            if instruction.target >= 0 or instruction.opcode == "ret":
                taken = mask if self.mask is None else self.mask
                left = mask & ~taken
                if instruction.opcode == "ret":
                    self._exited |= taken
                elif not left.any() and not self._waiting:
                    place = instruction.target
                    continue
                else:
                    self._wait(instruction.target, taken)
                if left.any():
                    self._wait(place + 1, left)
                return
            try:
                instruction.run(self, instruction)
            except PtxError as error:
                error.line, error.text = instruction.line, instruction.text
                raise
            place += 1

    def _wait(self, place: int, mask: Array) -> None:
        others = self._waiting.get(place)
        self._waiting[place] = mask if others is None else mask | others
