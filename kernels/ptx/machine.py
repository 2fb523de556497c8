"""Run the threads of some blocks, one instruction at a time.

All threads run together until a branch diverges. Then the threads at the lowest position run first,
until they meet others. An instruction that needs all threads of a warp, a block or the launch waits
for them.
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
"""NumPy type for the bits of a PTX type."""

GARBAGE = 0xDEAD_BEEF_DEAD_BEEF
"""Value of an uninitialised register."""

STEPS = 400_000
"""Number of instructions after which a kernel counts as an endless loop."""


SINK = Name("_")
"""Operand for an unused result."""


class InFlight:
    """Value of a register that an asynchronous product will write."""

    def __init__(self, value: Array):
        self.value = value


class Machine:
    """Some blocks of a launch.

    Args:
        program: program to run.
        arguments: values of the parameters, in order.
        grid: number of blocks of the whole launch.
        blocks: indices of the blocks to run.
        shared: shared memory per block in bytes.
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
        """Threads that run the current instruction; None for all."""
        self.all_threads = np.arange(self.lanes, dtype=np.int32)
        self.copies: list[list[tuple[Array, Array]]] = [[]]
        """Asynchronous copies in groups. The last group is not committed yet."""
        self.products: list[list[Any]] = [[]]
        """Asynchronous products in groups, with the data that they use."""
        self.fenced: dict[int, Any] = {}
        """Values of the registers at the last ``wgmma.fence``, by identity."""
        self.executed: set[int] = set()
        """Positions of the program that a thread has run."""
        thread = np.tile(np.arange(self.threads, dtype=np.uint32), len(blocks))
        block = np.repeat(np.array(blocks, np.uint32), self.threads)
        zero = np.zeros(self.lanes, np.uint32)
        self._special = {
            **dict.fromkeys(("%tid.y", "%tid.z", "%ctaid.y", "%ctaid.z"), zero),
            "%tid.x": thread,
            "%ctaid.x": block,
            "%ntid.x": np.full(self.lanes, self.threads, np.uint32),
            "%nctaid.x": np.full(self.lanes, grid, np.uint32),
            "%laneid": thread % WARP,
        }
        self._numbers: dict[tuple[int, Any], Array] = {}
        self._spans = {"thread": 1, "warp": WARP, "block": self.threads, "launch": self.lanes}

    # Registers.

    def read(self, operand: Operand, kind: str = "b32") -> Array:
        """Return the bits of an operand of a PTX type, a number for each thread."""
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
        """Read like ``read``, but allow uninitialised parts: the compiler uses them as filler."""
        if isinstance(operand, Register) and self.registers[operand.index] is None:
            return np.full(self.lanes, GARBAGE, np.uint64).astype(TYPES[kind])
        return self.read(operand, kind)

    def signed(self, operand: Operand, kind: str) -> Array:
        """Return an operand as signed integers."""
        bits = self.read(operand, kind)
        return bits.view(np.dtype(f"i{bits.dtype.itemsize}"))

    def number(self, operand: Operand) -> Array:
        """Return a float32 operand."""
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
        """Return the operands of a vector, or a single operand."""
        return operand.parts if isinstance(operand, Vector) else (operand,)

    # Addresses.

    def active(self) -> NDArray[np.int32]:
        """Return the indices of the active threads."""
        return self.all_threads if self.mask is None else np.flatnonzero(self.mask).astype(np.int32)

    def of_active(self, values: Array) -> Array:
        """Select the values of the active threads."""
        return values if self.mask is None else values[self.mask]

    def of_all(self, values: Array) -> Array:
        """Expand values of the active threads to all threads; the others have zeros."""
        if self.mask is None:
            return values.copy()
        every = np.zeros(self.lanes, values.dtype)
        every[self.mask] = values
        return every

    def addresses(self, operand: Address) -> NDArray[np.int64]:
        """Return the addresses of all threads."""
        base = operand.base if isinstance(operand.base, Register) else Name(operand.base)
        return self.read(base).astype(np.int64) + operand.offset

    # Control.

    def run(self) -> int:
        """Run until all threads have returned; return the number of instructions.

        Raises:
            PtxError: the program is faulty; the error has the line of the instruction.
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
        """Select the threads to run: those at the lowest position that do not wait for others."""
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
        """Return the threads of ``mask`` whose partners in ``instruction`` have arrived too."""
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
        """Run the threads of ``mask`` until they diverge, return, wait or meet others."""
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
