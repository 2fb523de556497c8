"""Candidates and examples of `clinreadnet tune` for each entry of a configuration file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from clinreadnet.errors import first_line
from clinreadnet.kernels import Impl
from clinreadnet.kernels.compile import launch_obstacle, resources
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import Case, Config, LayerShape, OpSpec, TuningEntry
from clinreadnet.precision import precision_of

BATCH = 8
"""Slices per launch, for ops whose kernel does not depend on it."""


@dataclass(frozen=True)
class Example:
    """Arguments for timing a configuration.

    Attributes:
        name: name in the table.
        tensors: inputs. The first dimension of the first tensor is the batch.
        op: function that calls the kernel, or the reference in the dtype of the tensors.
        budget: largest relative error to the float64 reference.
    """

    name: str
    tensors: tuple[Tensor, ...]
    op: Callable[[Sequence[Tensor], Impl], Tensor]
    budget: float


@dataclass(frozen=True)
class Tunable:
    """An entry of a configuration file.

    Attributes:
        candidates: configurations to try, besides the one in use.
        cases: function from a compute capability to the kernels of this entry that need most
            registers.
        examples: function from a device to the examples to time.
        library: as in `clinreadnet.kernels.spec.TuningEntry`.
    """

    candidates: tuple[Config, ...]
    cases: Callable[[int], list[Case]]
    examples: Callable[[torch.device], list[Example]]
    library: tuple[tuple[str, int], ...] = ()


def compile_obstacle(cases: Sequence[Case]) -> str | None:
    """Return why a candidate cannot be launched, or None. No GPU is needed."""
    for case in cases:
        try:
            taken = resources(case)
        except Exception as error:  # any error of the compiler excludes the candidate
            return f"does not compile: {first_line(error)}"
        if (obstacle := launch_obstacle(taken, case.capability)) is not None:
            return obstacle
    return None


def examples_of(
    spec: OpSpec, entry: TuningEntry, device: torch.device, batch: int = BATCH
) -> list[Example]:
    """Create the examples of an entry.

    Args:
        spec: spec of the op.
        entry: names, types and shapes.
        device: device of the tensors.
        batch: batch of examples whose shape has none.
    """

    def example(name: str, dtype: str, shape: LayerShape) -> Example:
        def op(tensors: Sequence[Tensor], impl: Impl) -> Tensor:
            return spec.call(tensors, shape, impl)

        tensors = spec.arguments(shape, shape.batch or batch, dtype, device)
        return Example(name, tensors, op, precision_of(dtype).budget)

    return [example(*arguments) for arguments in entry.timed]


def _tunable(spec: OpSpec, *keys: str) -> Tunable:
    entry = spec.tuning(*keys)

    def cases(capability: int) -> list[Case]:
        made = (spec.case(capability, dtype, shape) for dtype, shape in entry.compiled)
        return [case for case in made if case is not None]

    return Tunable(entry.candidates, cases, partial(examples_of, spec, entry), entry.library)


TUNABLE: dict[str, Callable[..., Tunable]] = {
    spec.name: partial(_tunable, spec) for spec in OPS.values()
}
"""Functions that return the `Tunable` of an op from the keys below its name."""
