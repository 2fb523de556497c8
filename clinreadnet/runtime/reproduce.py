"""Run slices in batches, and compare what comes out with the float64 reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.metrics import relative_error
from clinreadnet.runtime.scores import Outputs

BatchRunner = Callable[[NDArray[Any]], Outputs]
"""Runs [n, 1, 512, 512] Hounsfield units, as `Backend.run` does."""


@dataclass(frozen=True)
class Comparison:
    """How outputs compare with the reference's on the same slices.

    Attributes:
        errors: relative error of each output.
        limit: largest error that is accepted.
        worst_score_difference: largest difference of one slice's score, in grades; infinite where a
            score is not finite, and None where no scores were compared.
    """

    errors: Mapping[str, float]
    limit: float
    worst_score_difference: float | None

    def failures(self, bound: str = "limit") -> list[str]:
        """Say which outputs miss the limit; ``bound`` is what the message calls it."""
        # Written so that a NaN fails.
        return [
            f"{name} is off by {error:.1e} ({bound} {self.limit:.0e})"
            for name, error in self.errors.items()
            if not error <= self.limit
        ]


def compare_outputs(outputs: Outputs, reference: Outputs, limit: float) -> Comparison:
    """Compare every output with the reference's of the same name.

    Args:
        outputs: arrays by name.
        reference: the same names, float64; others are left alone.
        limit: largest relative error to accept.
    """
    worst = None
    if "score" in outputs:
        difference = np.abs(np.asarray(outputs["score"]) - reference["score"])
        worst = float(difference.max()) if np.isfinite(difference).all() else float("inf")
    errors = {name: relative_error(output, reference[name]) for name, output in outputs.items()}
    return Comparison(errors, limit, worst)


def run_batch(run: BatchRunner, hu: NDArray[Any], smallest: int = 1) -> Outputs:
    """Run one batch, filled up with its last slice where it is smaller than ``smallest``.

    Args:
        run: what runs it.
        hu: [n, 512, 512] Hounsfield units.
        smallest: least batch that ``run`` takes.

    Returns:
        The outputs of the n slices.
    """
    n = len(hu)
    if n >= smallest:
        return run(hu[:, None])
    hu = np.concatenate([hu, np.repeat(hu[-1:], smallest - n, axis=0)])
    return {name: value[:n] for name, value in run(hu[:, None]).items()}


def run_slices(
    run: BatchRunner,
    slices: Iterable[NDArray[Any]],
    *,
    batch: int = 1,
    smallest: int = 1,
    advance: Callable[[int], None] = lambda n: None,
) -> Outputs:
    """Run slices in turn, ``batch`` at a time.

    Args:
        run: what runs a batch.
        slices: [512, 512] Hounsfield units each; read when their turn comes.
        batch: slices of one run.
        smallest: least batch that ``run`` takes.
        advance: told how many slices were run.

    Returns:
        The outputs of all slices, in order.
    """
    coming = iter(slices)
    parts: list[Outputs] = []
    while taken := list(itertools.islice(coming, batch)):
        parts.append(run_batch(run, np.stack(taken), smallest))
        advance(len(taken))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def reproduce(
    run: BatchRunner,
    slices: Iterable[NDArray[Any]],
    reference: Outputs,
    limit: float,
    *,
    smallest: int = 1,
) -> Comparison:
    """Run slices one at a time, and compare with what the reference made of them.

    Args:
        run: what runs a batch.
        slices: [512, 512] Hounsfield units each.
        reference: the reference's outputs on them, float64.
        limit: largest relative error to accept.
        smallest: least batch that ``run`` takes.
    """
    return compare_outputs(run_slices(run, slices, smallest=smallest), reference, limit)
