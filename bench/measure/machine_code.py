"""What bounds a kernel, counted from its machine code. A bound by counting, not a measurement.

Each of a multiprocessor's four schedulers issues at most one warp instruction a cycle. A program
that moves B bytes and needs I instructions of each scheduler therefore moves at most B / I bytes a
cycle and multiprocessor, whatever else waits. The **issue ceiling** is that rate over the one that
a plain copy reaches on the GPU. A kernel above 100 % can be as fast as a copy; one below cannot.

Instructions come from ``nvdisasm``, which is in Triton's wheel. Those of a loop count as often as
it runs; a loop that waits counts once; both sides of a branch count; slow paths of square roots and
divisions, which calls reach, do not. Caches, latencies and bank conflicts are not modelled.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from triton import knobs

from clinreadnet.kernels.compile import compiled, resources_of, run_on_cubin
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import STAGES, STEM, Case, KernelSource, NetworkShape, OpSpec

SCHEDULERS = 4
"""Of a multiprocessor, on every architecture here."""

CLASSES = {
    "tensor": r"HMMA|IMMA|HGMMA|WGMMA|UTC\w*MMA",
    "float": r"FADD|FMUL|FFMA|FMNMX|HADD2|HFMA2|HMUL2|HMNMX2|FADD2|FMUL2|FFMA2|FMNMX3",
    "special": r"MUFU",
    "conversion": r"F2F|F2FP|F2I|I2F|I2FP|FRND|HADD2\.F32",
    "global load": r"LDG|LDGSTS",
    "global store": r"STG",
    "shared load": r"LDS|LDSM|LDT|LDTM",
    "shared store": r"STS|STSM|STT|STTM",
    "shuffle": r"SHFL|MOVM",
    "barrier": (
        r"BAR|DEPBAR|LDGDEPBAR|WARPSYNC|WARPGROUP|MEMBAR|FENCE|NANOSLEEP|SYNCS|UTCBAR|ERRBAR|CCTL"
    ),
    "control": r"BRA|EXIT|CALL|RET|BSSY|BSYNC|BREAK|NOP|YIELD|JMP|BRX",
}
"""Classes of instructions by the stems of their names; the rest is integer, selection and moves."""
REST = "integer and moves"

_LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(?P<name>[A-Z][\w.]*)(?P<rest>[^;]*);")
_LABEL = re.compile(r"^(\.L_x_\d+|\$?[\w$]+):")
_TARGET = re.compile(r"`\((?P<label>[^)]+)\)")


@dataclass(frozen=True)
class Instruction:
    """One instruction of the machine code: its name with modifiers, and where it may branch to."""

    name: str
    target: str | None = None

    @property
    def stem(self) -> str:
        """The name without modifiers."""
        return self.name.partition(".")[0]

    @property
    def kind(self) -> str:
        """Its class."""
        if self.name.startswith("HADD2.F32"):  # how a half is widened
            return "conversion"
        return next((k for k, stems in CLASSES.items() if re.fullmatch(stems, self.stem)), REST)


def disassemble(cubin: bytes) -> list[Instruction | str]:
    """Return the instructions of a cubin's kernel, and labels as strings."""
    text = run_on_cubin(knobs.nvidia.nvdisasm.path, "-c", cubin)
    code: list[Instruction | str] = []
    for line in text.splitlines():
        if parsed := _LINE.search(line):
            target = _TARGET.search(parsed["rest"])
            code.append(Instruction(parsed["name"], target["label"] if target else None))
        elif parsed := _LABEL.match(line):
            code.append(parsed[1])
    return code


def executed(code: Sequence[Instruction | str], trips: int) -> list[Instruction]:
    """Return what a warp runs, each instruction as often as it does.

    Args:
        code: from ``disassemble``.
        trips: how often the kernel's loop runs. A loop that sleeps waits for something: it counts
            once. What stands after the last EXIT is such loops and slow paths, and does not count.

    Raises:
        ValueError: the code has several loops, or one where ``trips`` is 1.
    """
    end = max(
        i for i, item in enumerate(code) if isinstance(item, Instruction) and item.stem == "EXIT"
    )
    body = list(code[: end + 1])
    places = {item: i for i, item in enumerate(body) if isinstance(item, str)}
    back = [
        range(places[item.target or ""], i + 1)
        for i, item in enumerate(body)
        if isinstance(item, Instruction)
        and item.stem == "BRA"
        and places.get(item.target or "", i) < i
    ]
    loops = [loop for loop in back if not any(_sleeps(body[i]) for i in loop)]
    if len(loops) > (trips > 1):
        raise ValueError(f"{len(loops)} loops where the kernel's source has {int(trips > 1)}")
    run: list[Instruction] = []
    for block in _blocks(body):
        instructions = [(i, item) for i in block if isinstance(item := body[i], Instruction)]
        if any(item.stem == "CALL" and (item.target or "")[:1] == "$" for _, item in instructions):
            continue  # a slow path
        for i, item in instructions:
            run += [item] * (trips if any(i in loop for loop in loops) else 1)
    return run


def _sleeps(item: Instruction | str) -> bool:
    return isinstance(item, Instruction) and item.stem == "NANOSLEEP"


def _blocks(body: Sequence[Instruction | str]) -> Iterator[range]:
    """Straight pieces of code: they end at branches and start at labels."""
    first = 0
    for i, item in enumerate(body):
        if isinstance(item, str):
            yield range(first, i)
            first = i
        elif item.stem in ("BRA", "EXIT"):
            yield range(first, i + 1)
            first = i + 1
    yield range(first, len(body))


def widths(run: Sequence[Instruction], stems: Sequence[str]) -> Counter[int]:
    """Count accesses by the bits that each thread moves."""
    accesses: Counter[int] = Counter()
    for instruction in run:
        if instruction.stem in stems:
            bits = re.search(r"\.(?:U|S)?(8|16|32|64|128)\b", instruction.name)
            accesses[int(bits[1]) if bits else 32] += 1
    return accesses


@dataclass(frozen=True)
class Multiprocessor:
    """What limits how many warps a multiprocessor holds (CUDA programming guide).

    Attributes:
        warps: at most.
        blocks: at most.
        shared: KiB of shared memory, of which each block takes one more than it asks for.
    """

    warps: int
    blocks: int
    shared: int


MULTIPROCESSORS = {
    75: Multiprocessor(32, 16, 64),
    80: Multiprocessor(64, 32, 164),
    86: Multiprocessor(48, 16, 100),
    89: Multiprocessor(48, 24, 100),
    90: Multiprocessor(64, 32, 228),
    100: Multiprocessor(64, 32, 228),
    120: Multiprocessor(48, 24, 100),
}


def occupancy(capability: int, registers: int, shared: int, num_warps: int) -> float:
    """Return the share of a multiprocessor's warps that it can hold at once.

    Args:
        capability: compute capability as one number.
        registers: of a thread; a warp takes them in steps of 256.
        shared: bytes of a block.
        num_warps: of a block.
    """
    limits = MULTIPROCESSORS[capability]
    warp = -(-registers * 32 // 256) * 256
    reserved = 1024 if capability >= 80 else 0
    blocks = min(
        limits.blocks,
        limits.warps // num_warps,
        65536 // warp // num_warps,
        limits.shared * 1024 // (shared + reserved) if shared + reserved else limits.blocks,
    )
    return blocks * num_warps / limits.warps


@dataclass(frozen=True)
class Card:
    """A GPU to compare with: from its data sheet, a copy taken to reach nine tenths of it.

    Attributes:
        name: as sold.
        gigabytes: of memory bandwidth per second.
        multiprocessors: how many.
        gigahertz: boost clock.
    """

    name: str
    gigabytes: float
    multiprocessors: int
    gigahertz: float

    @property
    def copy(self) -> float:
        """Bytes per cycle and multiprocessor that a copy reads and writes."""
        return 0.9 * self.gigabytes / self.multiprocessors / self.gigahertz


CARDS = {
    75: Card("T4", 320, 40, 1.59),
    80: Card("A100 40GB", 1555, 108, 1.41),
    86: Card("A10", 600, 72, 1.695),
    89: Card("L4", 300, 58, 2.04),
    90: Card("H100 SXM", 3352, 132, 1.755),
    100: Card("B200", 8000, 148, 1.965),
    120: Card("RTX 5090", 1792, 170, 2.407),
}


@dataclass(frozen=True)
class Count:
    """What one program of a kernel does.

    Attributes:
        instructions: of each scheduler, by class.
        loads: global loads of a warp, by bits of each thread.
        stores: global stores likewise.
        bytes: that it must move at least: its share of the op's work at a large batch.
        registers: of a thread.
        spilled: bytes of a thread.
        shared: bytes of shared memory of a block.
        occupancy: share of a multiprocessor's warps.
        ceiling: bytes at one instruction a cycle over those of a copy.
    """

    instructions: dict[str, float]
    loads: dict[int, int]
    stores: dict[int, int]
    bytes: float
    registers: int
    spilled: int
    shared: int
    occupancy: float
    ceiling: float

    @property
    def issued(self) -> float:
        """Instructions of each scheduler."""
        return sum(self.instructions.values())


BATCH = 64
"""Slices of a launch: parameters are read once for all of them."""


def kernels() -> list[tuple[OpSpec, KernelSource]]:
    """Return the kernels of the preset `small`, blocks with and without a shift."""
    blocks = tuple(replace(stage, shift=shift) for shift in (0, 4) for stage in STAGES)
    network = NetworkShape(STEM, blocks)
    return [(spec, source) for spec in OPS.values() for source in spec.sources(network)]


def count(spec: OpSpec, source: KernelSource, case: Case) -> Count:
    """Compile a kernel and count it on the first layer that launches it.

    Raises:
        ValueError: the machine code has loops that the source has not.
    """
    kernel = compiled(case)
    taken = resources_of(kernel)
    run = executed(disassemble(kernel.asm["cubin"]), spec.trips(case, source.shape))
    kinds = Counter(instruction.kind for instruction in run)
    by_scheduler = case.num_warps / SCHEDULERS
    instructions = {kind: kinds[kind] * by_scheduler for kind in (*CLASSES, REST) if kinds[kind]}
    sizes = {name: n for name, n in source.uses[0].items() if name != "layer"}
    slices = {"tokens": BATCH * sizes.pop("tokens")} if "tokens" in sizes else {"B": BATCH}
    programs = source.grid(case).at(sizes | slices)
    item = 4 if case.signature["out_ptr"] == "*fp32" else 2
    moved = spec.work(source.shape, BATCH, item).bytes / programs
    return Count(
        instructions,
        dict(widths(run, ("LDG", "LDGSTS"))),
        dict(widths(run, ("STG",))),
        moved,
        taken.registers,
        taken.stack,
        taken.shared,
        occupancy(case.capability, taken.registers, taken.shared, case.num_warps),
        moved / sum(instructions.values()) / CARDS[case.capability].copy,
    )
