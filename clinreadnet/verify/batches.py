"""Plan and compare the batches of a verification.

An engine can be correct at one batch size and wrong at another (NVIDIA/TensorRT#4853). Slices
therefore run at MIN, OPT and MAX of the profile and at an odd size in between. Every slice runs
once at MAX, and a further batch contains the same slice at every position. Every slice of every
batch is compared with the reference and with its result in the other batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from clinreadnet.precision import Limits
from clinreadnet.runtime.bundle.manifest import BatchRange
from clinreadnet.runtime.comparison import (
    BatchRunner,
    compare_outputs,
    run_batch,
    usual_norms,
)
from clinreadnet.runtime.scores import Outputs
from clinreadnet.verify.reference import Advance, SliceSource

CPU_BATCH = 16
"""Largest batch to verify on a CPU, or MIN if that is larger. Activations take about 100 MB per
slice, and a session on a CPU runs single slices by default."""

REPEAT = 0.5
"""Accepted difference of two runs of a slice, as a share of the limits. Other slices and positions
in a batch change only the order of sums."""


@dataclass(frozen=True)
class Batch:
    """A batch of slices.

    Attributes:
        slices: indices of the slices.
        what: description of the batch, such as "batch 16".
    """

    slices: tuple[int, ...]
    what: str


@dataclass(frozen=True)
class BatchedOutputs:
    """Outputs of all batches.

    Attributes:
        outputs: outputs of all slices in order, from the largest batch.
        runs: batches with their outputs.
    """

    outputs: Outputs
    runs: tuple[tuple[Batch, Outputs], ...]

    @property
    def sizes(self) -> list[int]:
        """The batch sizes that ran, ascending."""
        return sorted({len(batch.slices) for batch, _ in self.runs})


def odd_between(batch: BatchRange) -> int | None:
    """Return an odd size inside a profile other than MIN, OPT and MAX, or None."""
    middle = (batch.opt + batch.max) / 2
    odd = [n for n in range(batch.min + 1, batch.max) if n % 2 and n != batch.opt]
    return min(odd, key=lambda n: (abs(n - middle), n), default=None)


def verified_range(batch: BatchRange, largest: int | None) -> BatchRange:
    """Return the part of a profile up to ``largest``, or up to MIN if that is larger."""
    if largest is None or batch.max <= largest:
        return batch
    most = max(batch.min, largest)
    return BatchRange(batch.min, min(batch.opt, most), most)


def plan(slices: int, batch: BatchRange) -> list[Batch]:
    """Return the batches to run for ``slices`` slices. Larger batches repeat slices.

    The first batches have size MAX and contain each slice once, in order, filled at the end.

    Args:
        slices: number of slices, at least one.
        batch: the profile.
    """
    most = batch.max
    batches = [
        Batch(tuple((start + i) % slices for i in range(most)), f"batch {most}")
        for start in range(0, slices, most)
    ]
    start = 0
    for size in sorted({batch.min, batch.opt, odd_between(batch) or batch.opt} - {most}):
        batches.append(Batch(tuple((start + i) % slices for i in range(size)), f"batch {size}"))
        start += size
    if most > 1:
        same = (slices // 2,) * most
        batches.append(Batch(same, f"batch {most} of one slice"))
    return batches


def planned(slices: int, batch: BatchRange) -> int:
    """Return the number of slices in the batches of `plan`, for progress bars."""
    return sum(len(step.slices) for step in plan(slices, batch))


def run_batches(
    run: BatchRunner, slices: SliceSource, batch: BatchRange, advance: Advance = lambda n: None
) -> BatchedOutputs:
    """Run slices in the batches of `plan`. Ctrl-C ends the call during a batch.

    Args:
        run: function that runs a batch. It is called on a thread.
        slices: slices to run.
        batch: the profile.
        advance: called with the number of slices of each batch.
    """
    runs: list[tuple[Batch, Outputs]] = []
    pool = ThreadPoolExecutor(1)  # a batch of a library takes seconds that no Ctrl-C shortens
    try:
        for step in plan(len(slices), batch):
            images = {index: slices.hu(index) for index in set(step.slices)}
            hu = np.stack([images[index] for index in step.slices])
            runs.append((step, pool.submit(run_batch, run, hu, batch.min).result()))
            advance(len(step.slices))
    finally:
        pool.shutdown(wait=False)
    first = runs[: -(-len(slices) // batch.max)]
    joined = {
        name: np.concatenate([outputs[name] for _, outputs in first])[: len(slices)]
        for name in runs[0][1]
    }
    return BatchedOutputs(joined, tuple(runs))


def batch_failures(
    batched: BatchedOutputs,
    reference: Outputs,
    limits: Limits,
    name: Callable[[int], str],
) -> dict[str, str]:
    """Find slices that exceed a limit in a batch.

    Args:
        batched: outputs of all batches.
        reference: float64 outputs of all slices.
        limits: largest differences from the reference.
        name: function that returns the name of a slice by its index.

    Returns:
        A message for each batch that fails, by `Batch.what`. A slice that fails in several batches,
        one after the other, is named in the first.
    """
    usual = usual_norms(reference, batched.outputs)
    said: dict[str, str] = {}
    named = None
    for batch, outputs in batched.runs:
        if batch.what not in said and (missed := _missed(batch, outputs, reference, limits, usual)):
            position, text = missed
            index = batch.slices[position]
            failure = "the same slice" if index == named else f"{name(index)}: {text}"
            said[batch.what] = f"{batch.what}, position {position}, {failure}"
            named = index
    return said


def repeat_failure(
    batched: BatchedOutputs, reference: Outputs, limits: Limits, name: Callable[[int], str]
) -> str | None:
    """Find a slice whose results in two batches differ by more than `REPEAT` of the limits.

    Arguments as in `batch_failures`.
    """
    usual = usual_norms(reference, batched.outputs)
    share = Limits(
        error=REPEAT * limits.error,
        tile=REPEAT * limits.tile,
        novelty=REPEAT * limits.novelty,
        slice_error=REPEAT * limits.slice_error,
    )
    for batch, outputs in batched.runs:
        if missed := _missed(batch, outputs, batched.outputs, share, usual, "limit"):
            position, text = missed
            return (
                f"{name(batch.slices[position])} depends on its batch: in {batch.what}, position "
                f"{position}, {text}"
            )
    return None


def _missed(
    batch: Batch,
    outputs: Outputs,
    reference: Outputs,
    limits: Limits,
    usual: Mapping[str, float],
    bound: str = "budget",
) -> tuple[int, str] | None:
    """Return the first position that exceeds a limit, with a message."""
    expected = {key: np.asarray(reference[key])[list(batch.slices)] for key in outputs}
    compared = compare_outputs(outputs, expected, limits, usual)
    for position in compared.outside():
        return position, str(compared.failure_of(position, bound))
    return None
