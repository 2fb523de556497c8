"""Choose the candidates to time by counting their machine code. No GPU is needed.

A multiprocessor issues at most one warp instruction per cycle and scheduler, and reads at most
``CACHE_BYTES`` per cycle from the L2 cache. The larger of both times, for the programs of the
busiest multiprocessor, is a lower bound of a launch. Below an occupancy of ``OCCUPANCY`` too few
warps hide latencies, and the bound is raised in proportion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from clinreadnet.errors import first_line
from clinreadnet.kernels.compile import compiled, launch_obstacle, resources_of
from clinreadnet.kernels.launch import trial
from clinreadnet.kernels.machine_code import SCHEDULERS, disassemble, executed, occupancy, widths
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import STAGES, STEM, Case, Config, LayerShape, NetworkShape, OpSpec
from clinreadnet.processor import processors
from clinreadnet.tuning.tunable import BATCH, TUNABLE, compile_obstacle

CACHE_BYTES = 21
"""Bytes that a multiprocessor reads from the L2 cache per cycle (5.5 TB/s on an H200)."""
OCCUPANCY = 0.25


@dataclass(frozen=True)
class Estimate:
    """Lower bound of a candidate.

    Attributes:
        config: the candidate.
        cycles: geometric mean over the shapes; infinite if it cannot be launched or counted.
        obstacle: why it cannot be launched, or None.
    """

    config: Config
    cycles: float
    obstacle: str | None = None


def shortlist(
    keys: tuple[str, ...],
    candidates: Sequence[Config],
    most: int,
    *,
    capability: int,
    multiprocessors: int,
    processes: int | None = None,
) -> list[Config]:
    """Return the candidates with the lowest bounds, the lowest first.

    Args:
        keys: path of the entry in a configuration file, from the name of the op.
        candidates: configurations to choose from.
        most: largest number of candidates to return.
        capability: compute capability to compile for, 90 for 9.0.
        multiprocessors: number of multiprocessors of the GPU.
        processes: processes that compile; default one for each processor.
    """
    count = partial(estimate, keys, capability=capability, multiprocessors=multiprocessors)
    processes = processes or processors()
    if processes == 1:
        return _lowest(list(map(count, candidates)), most)
    # A fork would copy the state of CUDA, which does not survive it.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        chosen = _lowest(list(pool.map(count, candidates)), most)
        # The tuner compiles the chosen for every shape, one after another, and finds these in
        # Triton's cache on the disk.
        list(pool.map(partial(obstacle, keys, capability=capability), chosen))
    return chosen


def _lowest(estimates: Sequence[Estimate], most: int) -> list[Config]:
    fit = [item for item in estimates if item.obstacle is None]
    return [item.config for item in sorted(fit, key=lambda item: item.cycles)[:most]]


def obstacle(keys: tuple[str, ...], config: Config, *, capability: int) -> str | None:
    """Compile all kernels of a candidate; return why it cannot be launched, or None."""
    with trial(config, *keys):
        return compile_obstacle(TUNABLE[keys[0]](*keys[1:]).cases(capability))


def estimate(
    keys: tuple[str, ...], config: Config, *, capability: int, multiprocessors: int
) -> Estimate:
    """Count a candidate on the first and the last shape; arguments as in `shortlist`."""
    spec = OPS[keys[0]]
    entry = spec.tuning(*keys[1:])
    timed = [(dtype, shape) for _, dtype, shape in (entry.timed[0], entry.timed[-1])]
    bounds = []
    with trial(config, *keys):
        for dtype, shape in dict.fromkeys((entry.compiled[0], entry.compiled[-1], *timed)):
            case = spec.case(capability, dtype, shape)
            if case is None:
                continue
            try:
                kernel = compiled(case)
            except Exception as error:  # any error of the compiler excludes the candidate
                return Estimate(config, math.inf, f"does not compile: {first_line(error)}")
            taken = resources_of(kernel)
            if (obstacle := launch_obstacle(taken, capability)) is not None:
                return Estimate(config, math.inf, obstacle)
            if (dtype, shape) not in timed:
                continue
            try:
                run = executed(disassemble(kernel.asm["cubin"]), spec.trips(case, shape))
            except ValueError:  # loops that the source does not have: it may be timed as the last
                return Estimate(config, math.inf)
            issued = len(run) * case.num_warps / SCHEDULERS
            loads = widths(run, ("LDG", "LDGSTS"))
            read = sum(bits * n for bits, n in loads.items()) / 8 * 32 * case.num_warps
            held = occupancy(capability, taken.registers, taken.shared, case.num_warps)
            programs = math.ceil(_programs(spec, case, shape) / multiprocessors)
            slower = max(1.0, OCCUPANCY / held) if held else math.inf
            bounds.append(programs * max(issued, read / CACHE_BYTES) * slower)
    if not bounds:
        return Estimate(config, math.inf, "no shape is supported")
    return Estimate(config, math.exp(sum(map(math.log, bounds)) / len(bounds)))


def _programs(spec: OpSpec, case: Case, shape: LayerShape) -> int:
    """Return the number of programs of a launch, by default of ``BATCH`` slices."""
    source = next(spec.sources(NetworkShape(STEM, STAGES)))  # its grid depends on the case alone
    batch = shape.batch or BATCH
    sizes = {"B": batch, "H": shape.side, "W": shape.side, "heads": shape.heads}
    programs: int = source.grid(case).at(sizes | {"tokens": batch * shape.side**2})
    return programs
