"""Bound the speed of a kernel by counting its machine code. This is not a measurement.

Each of the four schedulers of a multiprocessor issues at most one warp instruction per cycle. A
program that moves B bytes and needs I instructions per scheduler therefore moves at most B / I
bytes per cycle and multiprocessor. The **issue ceiling** is this rate relative to that of a plain
copy on the GPU. `bench.tables.kernels.bounds` adds the bounds of memory, L2 cache and products.

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
from clinreadnet.kernels.spec import (
    LINEARS,
    STAGES,
    STEM,
    Case,
    KernelSource,
    NetworkShape,
    OpSpec,
)


@dataclass(frozen=True)
class Count:
    """Counts of a program of a kernel.

    Attributes:
        instructions: instructions per scheduler, by class.
        loads: global loads per warp, by bits per thread.
        stores: global stores per warp, by bits per thread.
        bytes: least number of bytes to move: the share of the op's work at a large batch.
        cache: bytes that the loads read from the L2 cache, if none is in the L1 cache.
        flops: operations of the products.
        product: instruction of the tensor cores with its shape, such as "HMMA.16816"; empty if
            there is none.
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
    cache: int
    flops: float
    product: str
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
"""Slices per launch of a kernel that does not depend on it. Parameters are read once."""


def kernels() -> list[tuple[OpSpec, KernelSource]]:
    """Return the kernels of the preset `small`, blocks with and without a shift."""
    blocks = tuple(replace(stage, shift=shift) for shift in (0, 4) for stage in STAGES)
    network = NetworkShape(STEM, blocks, LINEARS)
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
    batch = source.shape.batch or BATCH
    slices = {"tokens": batch * sizes.pop("tokens")} if "tokens" in sizes else {"B": batch}
    programs = source.grid(case).at(sizes | slices)
    item = 4 if case.signature[f"{spec.decides}_ptr"] == "*fp32" else 2
    work = spec.work(source.shape, batch, item)
    moved = work.bytes / programs
    loads = widths(run, ("LDG", "LDGSTS"))
    products = (item.name.split(".") for item in run if item.kind == "tensor")
    return Count(
        instructions,
        dict(loads),
        dict(widths(run, ("STG",))),
        moved,
        sum(bits * n for bits, n in loads.items()) // 8 * 32 * case.num_warps,
        work.flops / programs,
        next((".".join(name[:2]) for name in products), ""),
        taken.registers,
        taken.stack,
        taken.shared,
        occupancy(case.capability, taken.registers, taken.shared, case.num_warps),
        moved / sum(instructions.values()) / CARDS[case.capability].copy,
    )
