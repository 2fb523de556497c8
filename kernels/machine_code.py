"""Read the machine code of a kernel: instructions that a warp executes, and occupancy.

Instructions come from ``nvdisasm``, which is in Triton's wheel. Instructions of a loop count once
per iteration, those of a waiting loop once, and both sides of a branch count. Slow paths of square
roots and divisions do not count. Caches, latencies and bank conflicts are not modelled.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from triton import knobs

from clinreadnet.kernels.compile import run_on_cubin

SCHEDULERS = 4
"""Schedulers per multiprocessor on all supported architectures."""

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
"""Classes of instructions by the stems of their names. Others are integer, selection and moves."""
REST = "integer and moves"

_LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(?P<name>[A-Z][\w.]*)(?P<rest>[^;]*);")
_LABEL = re.compile(r"^(\.L_x_\d+|\$?[\w$]+):")
_TARGET = re.compile(r"`\((?P<label>[^)]+)\)")


@dataclass(frozen=True)
class Instruction:
    """An instruction of the machine code: name with modifiers, and branch target."""

    name: str
    target: str | None = None

    @property
    def stem(self) -> str:
        """The name without modifiers."""
        return self.name.partition(".")[0]

    @property
    def kind(self) -> str:
        """Class of the instruction."""
        if self.name.startswith("HADD2.F32"):  # conversion of a half to float32
            return "conversion"
        return next((k for k, stems in CLASSES.items() if re.fullmatch(stems, self.stem)), REST)


def disassemble(cubin: bytes) -> list[Instruction | str]:
    """Disassemble a cubin: instructions, and labels as strings."""
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
    """Return the instructions that a warp executes, with repetitions.

    Args:
        code: result of ``disassemble``.
        trips: number of iterations of the kernel's loop. A loop that sleeps is a wait and counts
            once. Code after the last EXIT (waits and slow paths) does not count.

    Raises:
        ValueError: the code has several loops, or a loop although ``trips`` is 1.
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
    """Yield basic blocks, which end at branches and start at labels."""
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
    """Count accesses by the bits per thread."""
    accesses: Counter[int] = Counter()
    for instruction in run:
        if instruction.stem in stems:
            bits = re.search(r"\.(?:U|S)?(8|16|32|64|128)\b", instruction.name)
            accesses[int(bits[1]) if bits else 32] += 1
    return accesses


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of a multiprocessor's occupancy (CUDA programming guide).

    Attributes:
        warps: largest number of warps.
        blocks: largest number of blocks.
        shared: shared memory in KiB. Each block takes 1 KiB more than requested.
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
    """Return the occupancy: resident warps relative to the largest number.

    Args:
        capability: compute capability as a number.
        registers: registers per thread. A warp allocates them in steps of 256.
        shared: shared memory per block in bytes.
        num_warps: warps per block.
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
