"""Mutants of PTX programs, which the PTX machine must detect."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace

import torch

from clinreadnet.kernels.ptx.cases import Case, Checked, check
from clinreadnet.kernels.ptx.errors import PtxError
from clinreadnet.kernels.ptx.launch import Kernel
from clinreadnet.kernels.ptx.program import Address, Immediate, Instruction, Program, Vector


@dataclass(frozen=True)
class Mutant:
    """A changed program.

    Attributes:
        kind: kind of the change, one of `KINDS`.
        line: line number in the file.
        text: text of the line.
        program: changed program.
    """

    kind: str
    line: int
    text: str
    program: Program


def _barrier(instruction: Instruction, chance: random.Random) -> Iterator[Instruction | None]:
    if instruction.opcode.startswith(("bar.sync", "bar.warp.sync", "fence.proxy", "wgmma.fence")):
        yield None


def _wait(instruction: Instruction, chance: random.Random) -> Iterator[Instruction | None]:
    if ".wait_group" in instruction.opcode:
        yield None


def _address(instruction: Instruction, chance: random.Random) -> Iterator[Instruction | None]:
    """Shift an address by one access, which keeps its alignment."""
    size = instruction.access_bytes
    places = [i for i, operand in enumerate(instruction.operands) if isinstance(operand, Address)]
    if size and places:
        operand = instruction.operands[places[0]]
        yield _with(instruction, places[0], replace(operand, offset=operand.offset + size))


def _predicate(instruction: Instruction, chance: random.Random) -> Iterator[Instruction | None]:
    if instruction.guard is not None:
        yield replace(instruction, negated=not instruction.negated)
    elif (
        instruction.opcode.startswith("selp") and instruction.operands[1] != instruction.operands[2]
    ):
        d, a, b, chosen = instruction.operands
        yield replace(instruction, operands=(d, b, a, chosen))


def _product(instruction: Instruction, chance: random.Random) -> Iterator[Instruction | None]:
    if not instruction.opcode.startswith(("mma.", "wgmma.mma_async")):
        return
    choices = []
    for place in (1, 2):  # A and B
        operand = instruction.operands[place]
        if isinstance(operand, Vector):
            for i in range(len(operand.parts)):
                for j in range(i):
                    if operand.parts[i] != operand.parts[j]:
                        choices.append((place, i, j))
    if choices:
        place, i, j = chance.choice(choices)
        parts = list(instruction.operands[place].parts)
        parts[i], parts[j] = parts[j], parts[i]
        yield _with(instruction, place, Vector(tuple(parts)))


def _shuffle(instruction: Instruction, chance: random.Random) -> Iterator[Instruction | None]:
    if instruction.opcode.startswith("shfl.sync.bfly") and isinstance(
        instruction.operands[2], Immediate
    ):
        others = [bit for bit in (1, 2, 4, 8, 16) if bit != instruction.operands[2].value]
        yield _with(instruction, 2, Immediate(chance.choice(others)))


def _with(instruction: Instruction, place: int, operand: object) -> Instruction:
    return replace(
        instruction,
        operands=(*instruction.operands[:place], operand, *instruction.operands[place + 1 :]),
    )


KINDS: dict[str, Callable[[Instruction, random.Random], Iterator[Instruction | None]]] = {
    "a barrier or a fence dropped": _barrier,
    "a wait dropped": _wait,
    "an address off by one access": _address,
    "a predicate negated": _predicate,
    "two operands of a product swapped": _product,
    "a shuffle's mask changed": _shuffle,
}
ORDERING = ("a barrier or a fence dropped", "a wait dropped")
"""Kinds that change the order of accesses but no values."""


def mutants(kernel: Kernel, executed: Set[int], count: int, seed: int = 0) -> list[Mutant]:
    """Return up to ``count`` mutants of a kernel, alternating the kinds.

    Args:
        kernel: kernel to change.
        executed: executed positions of the program. Only these are changed.
        count: number of mutants.
        seed: seed of the selection.
    """
    chance = random.Random(f"{seed} {kernel.file}")
    program = kernel.program
    queues: list[list[Mutant]] = []
    for kind, change in KINDS.items():
        made = []
        for place in sorted(executed):
            instruction = program.code[place]
            for changed in change(instruction, chance):
                broken = program.with_instruction(place, changed)
                made.append(Mutant(kind, instruction.line, instruction.text, broken))
        chance.shuffle(made)
        queues.append(made)
    chosen: list[Mutant] = []
    while len(chosen) < count and any(queues):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop())
    return chosen


@dataclass(frozen=True)
class Verdict:
    """Result of a mutant.

    Attributes:
        caught: name of the error, or "wrong result"; None if the mutant passes all cases.
        reason: why a passing mutant is equivalent, or that it was missed.
    """

    caught: str | None
    reason: str = ""

    @property
    def missed(self) -> bool:
        """Whether a wrong mutant passes."""
        return self.reason == WITHIN


SAME = "equivalent: the output is the same, bit for bit"
UNNEEDED = "equivalent: every access is ordered without it"
WITHIN = "missed: the output differs within the budget"


def verdict(kernel: Kernel, mutant: Mutant, among: Sequence[tuple[Case, Checked]]) -> Verdict:
    """Run a mutant on the cases of its kernel and compare with the runs of the kernel."""
    same = True
    for case, own in among:
        try:
            run = check(kernel, case, mutant.program)
        except PtxError as error:
            return Verdict(type(error).__name__)
        if not run.over_budget <= 1:
            return Verdict("wrong result")
        same &= torch.equal(run.out, own.out)
    orders = mutant.kind in ORDERING
    return Verdict(None, WITHIN if not same else UNNEEDED if orders else SAME)
