"""Bound the speed of a kernel by counting its machine code. This is not a measurement.

Each of the four schedulers of a multiprocessor issues at most one warp instruction per cycle. A
program that moves B bytes and needs I instructions per scheduler therefore moves at most B / I
bytes per cycle and multiprocessor. The **issue ceiling** is this rate relative to that of a plain
copy on the GPU. A kernel above 100 % can be as fast as a copy; a kernel below cannot.

`clinreadnet.kernels.machine_code` says which instructions count.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from bench.measure.cards import CARDS
from clinreadnet.kernels.compile import compiled, resources_of
from clinreadnet.kernels.machine_code import (
    CLASSES,
    REST,
    SCHEDULERS,
    disassemble,
    executed,
    occupancy,
    widths,
)
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import STAGES, STEM, Case, KernelSource, NetworkShape, OpSpec


@dataclass(frozen=True)
class Count:
    """Counts of a program of a kernel.

    Attributes:
        instructions: instructions per scheduler, by class.
        loads: global loads per warp, by bits per thread.
        stores: global stores per warp, by bits per thread.
        bytes: least number of bytes to move: the share of the op's work at a large batch.
        registers: registers per thread.
        spilled: spilled bytes per thread.
        shared: shared memory per block in bytes.
        occupancy: resident warps relative to the largest number.
        ceiling: bytes per cycle at full issue rate, relative to a copy.
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
        """Instructions per scheduler."""
        return sum(self.instructions.values())


BATCH = 64
"""Slices per launch, for which parameters are read once."""


def kernels() -> list[tuple[OpSpec, KernelSource]]:
    """Return the kernels of the preset `small`, blocks with and without a shift."""
    blocks = tuple(replace(stage, shift=shift) for shift in (0, 4) for stage in STAGES)
    network = NetworkShape(STEM, blocks)
    return [(spec, source) for spec in OPS.values() for source in spec.sources(network)]


def count(spec: OpSpec, source: KernelSource, case: Case) -> Count:
    """Compile a kernel and count it on the first layer that launches it.

    Raises:
        ValueError: the machine code has loops that the source does not have.
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
