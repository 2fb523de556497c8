"""Run slices in batches, and compare what comes out with the float64 reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.metrics import relative_error
from clinreadnet.precision import Limits
from clinreadnet.runtime.scores import Outputs

BatchRunner = Callable[[NDArray[Any]], Outputs]
"""Runs [n, 1, 512, 512] Hounsfield units, as `Backend.run` does."""


@dataclass(frozen=True)
class Comparison:
    """How outputs compare with the reference's on the same slices.

    A worst difference is infinite where a value is not finite, and None where the output was not
    compared.

    Attributes:
        errors: relative error of each output.
        limits: largest differences that are accepted.
        worst_score_difference: largest difference of one slice's score, in grades.
        worst_tile_difference: largest difference of one tile of a quality map, in grades.
        worst_novelty_difference: largest relative difference of one slice's novelty.
    """

    errors: Mapping[str, float]
    limits: Limits
    worst_score_difference: float | None
    worst_tile_difference: float | None
    worst_novelty_difference: float | None

    def failures(self, bound: str = "limit") -> list[str]:
        """Say which outputs miss the limits; ``bound`` is what the message calls them."""
        # Written so that a NaN fails.
        said = [
            f"{name} is off by {error:.1e} ({bound} {self.limits.error:.0e})"
            for name, error in self.errors.items()
            if not error <= self.limits.error
        ]
        tile, novelty = self.worst_tile_difference, self.worst_novelty_difference
        if tile is not None and not tile <= self.limits.tile:
            said.append(
                f"a tile of quality_map is off by {tile:.1e} grades "
                f"({bound} {self.limits.tile:.0e})"
            )
        if novelty is not None and not novelty <= self.limits.novelty:
            said.append(
                f"a slice's novelty is off by {novelty:.1e} of itself "
                f"({bound} {self.limits.novelty:.1e})"
            )
        return said


def compare_outputs(outputs: Outputs, reference: Outputs, limits: Limits) -> Comparison:
    """Compare every output with the reference's of the same name.

    Args:
        outputs: arrays by name.
        reference: the same names, float64; others are left alone.
        limits: largest differences to accept.
    """

    def worst(name: str, *, relative: bool = False) -> float | None:
        if name not in outputs:
            return None
        expected = np.asarray(reference[name], np.float64)
        difference = np.abs(np.asarray(outputs[name], np.float64) - expected)
        if relative:
            difference = difference / np.maximum(np.abs(expected), np.finfo(np.float64).tiny)
        return float(difference.max()) if np.isfinite(difference).all() else float("inf")

    return Comparison(
        {name: relative_error(output, reference[name]) for name, output in outputs.items()},
        limits,
        worst("score"),
        worst("quality_map"),
        worst("novelty", relative=True),
    )


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
    limits: Limits,
    *,
    smallest: int = 1,
) -> Comparison:
    """Run slices one at a time, and compare with what the reference made of them.

    Args:
        run: what runs a batch.
        slices: [512, 512] Hounsfield units each.
        reference: the reference's outputs on them, float64.
        limits: largest differences to accept.
        smallest: least batch that ``run`` takes.
    """
    return compare_outputs(run_slices(run, slices, smallest=smallest), reference, limits)
