"""Run slices in batches and compare the outputs with the float64 reference."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clinreadnet.precision import Limits
from clinreadnet.runtime.scores import Outputs

BatchRunner = Callable[[NDArray[Any]], Outputs]
"""Function that runs [n, 1, 512, 512] Hounsfield units, as `Backend.run` does."""


def time_runs(
    run: BatchRunner, hu: NDArray[Any], batch: int, *, runs: int, warm: int
) -> list[float]:
    """Time runs of a batch; return seconds.

    Args:
        run: function that runs a batch.
        hu: [n, 512, 512] Hounsfield units; repeated to fill the batch.
        batch: slices per run.
        runs: number of timed runs.
        warm: number of warm-up runs.
    """
    slices = np.resize(hu, (batch, 1, *hu.shape[1:])).astype(np.float32)
    seconds = []
    for _ in range(warm + runs):
        start = time.perf_counter()
        run(slices)
        seconds.append(time.perf_counter() - start)
    return seconds[warm:]


@dataclass(frozen=True)
class Comparison:
    """Differences of outputs from the reference on the same slices.

    A worst difference is infinite if a value is not finite, and None if the output was not
    compared.

    Attributes:
        errors: relative error of each output.
        slice_errors: largest error of a single slice, by output: the norm of the difference over
            the root mean square of the reference's norms.
        worst_slices: index of that slice, by output. "tile" is the slice with the worst tile, "one
            novelty" the slice with the worst relative novelty.
        limits: accepted differences.
        worst_score_difference: largest difference of a slice's score, in grades.
        worst_tile_difference: largest difference of a tile of a quality map, in grades.
        worst_novelty_difference: largest relative difference of a slice's novelty.
    """

    errors: Mapping[str, float]
    slice_errors: Mapping[str, float]
    worst_slices: Mapping[str, int]
    limits: Limits
    worst_score_difference: float | None
    worst_tile_difference: float | None
    worst_novelty_difference: float | None

    def failures(self, bound: str = "limit") -> list[str]:
        """Return a message for each output above its limit. ``bound`` is the word for "limit"."""
        # NaN fails these comparisons.
        pooled = {
            name: f"{name} is off by {error:.1e} ({bound} {self.limits.error:.0e})"
            for name, error in self.errors.items()
            if not error <= self.limits.error
        }
        alone = [text for name, text, _ in self._missed(bound) if name not in pooled]
        return [*pooled.values(), *alone]

    def first_missed(self, bound: str = "limit") -> tuple[int, str] | None:
        """Return a slice that exceeds a limit, with a message; None if there is none."""
        for _, text, index in self._missed(bound):
            return index, text
        return None

    def _missed(self, bound: str) -> Iterator[tuple[str, str, int]]:
        """Yield the output or "tile", a message and the slice for each exceeded slice limit.

        The novelty of a slice has its own limit.
        """
        for name, error in self.slice_errors.items():
            if name != "novelty" and not error <= self.limits.slice_error:
                limit = f"{bound} {self.limits.slice_error:.0e}"
                text = f"a slice's {name} is off by {error:.1e} ({limit})"
                yield name, text, self.worst_slices[name]
        tile, novelty = self.worst_tile_difference, self.worst_novelty_difference
        if tile is not None and not tile <= self.limits.tile:
            text = (
                f"a tile of quality_map is off by {tile:.1e} grades "
                f"({bound} {self.limits.tile:.0e})"
            )
            yield "tile", text, self.worst_slices["tile"]
        if novelty is not None and not novelty <= self.limits.novelty:
            text = (
                f"a slice's novelty is off by {novelty:.1e} of itself "
                f"({bound} {self.limits.novelty:.1e})"
            )
            yield "one novelty", text, self.worst_slices["one novelty"]


def relative_error(output: ArrayLike, reference: ArrayLike) -> float:
    """Return ‖output − reference‖ / ‖reference‖ over all elements, in float64.

    Args:
        output: any shape, any real dtype.
        reference: the same shape, float64.

    Returns:
        The error; infinite if ``output`` is not finite or has another shape.
    """
    out = np.asarray(output, dtype=np.float64)
    ref = np.asarray(reference, dtype=np.float64)
    if out.shape != ref.shape or not np.isfinite(out).all():
        return float("inf")
    scale = float(np.linalg.norm(ref))
    return float(np.linalg.norm(out - ref)) / max(scale, np.finfo(np.float64).tiny)


def compare_outputs(
    outputs: Outputs, reference: Outputs, limits: Limits, usual: Mapping[str, float] | None = None
) -> Comparison:
    """Compare outputs with those of the reference.

    Args:
        outputs: arrays by name.
        reference: float64 arrays by name. Names that are not in ``outputs`` are ignored.
        limits: accepted differences.
        usual: norm that the error of a slice is relative to, by output; default `usual_norms` of
            the reference on these slices.
    """
    usual = usual_norms(reference, outputs) if usual is None else usual
    slices = {name: _slice_errors(outputs[name], reference[name], usual[name]) for name in outputs}

    places = {name: int(errors.argmax()) for name, errors in slices.items()}

    def worst(name: str, place: str | None = None, *, relative: bool = False) -> float | None:
        if name not in outputs:
            return None
        expected = np.asarray(reference[name], np.float64)
        difference = np.abs(np.asarray(outputs[name], np.float64) - expected)
        if relative:
            difference = difference / np.maximum(np.abs(expected), np.finfo(np.float64).tiny)
        difference = np.where(np.isfinite(difference), difference, np.inf)
        if place is not None:
            places[place] = int(difference.reshape(len(difference), -1).max(axis=1).argmax())
        return float(difference.max())

    return Comparison(
        {name: relative_error(output, reference[name]) for name, output in outputs.items()},
        {name: float(errors.max()) for name, errors in slices.items()},
        places,
        limits,
        worst("score"),
        worst("quality_map", "tile"),
        worst("novelty", "one novelty", relative=True),
    )


def slices_outside(
    outputs: Outputs, reference: Outputs, limits: Limits, usual: Mapping[str, float]
) -> list[int]:
    """Return the indices of slices that exceed a limit; arguments as in `compare_outputs`."""
    outside = []
    for index in range(len(next(iter(outputs.values())))):
        ours, theirs = (
            {name: np.asarray(o[name])[index : index + 1] for name in outputs}
            for o in (outputs, reference)
        )
        if compare_outputs(ours, theirs, limits, usual).first_missed() is not None:
            outside.append(index)
    return outside


def usual_norms(reference: Outputs, names: Iterable[str]) -> dict[str, float]:
    """Return the root mean square over slices of the norm of each output."""
    return {
        name: float(np.sqrt(np.square(_rows(reference[name])).sum(axis=1).mean())) for name in names
    }


def _slice_errors(
    output: NDArray[Any], reference: NDArray[Any], usual: float
) -> NDArray[np.float64]:
    """Return the error of each slice [n]; infinite if a value is not finite."""
    if np.shape(output) != np.shape(reference):
        return np.full(max(len(output), 1), np.inf)
    norms = np.linalg.norm(_rows(output) - _rows(reference), axis=1)
    errors = norms / max(usual, np.finfo(np.float64).tiny)
    return np.where(np.isfinite(errors), errors, np.inf)


def _rows(output: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(output, np.float64).reshape(len(output), -1)


def run_batch(run: BatchRunner, hu: NDArray[Any], smallest: int = 1) -> Outputs:
    """Run a batch; if it is smaller than ``smallest``, repeat its last slice.

    Args:
        run: function that runs a batch.
        hu: [n, 512, 512] Hounsfield units.
        smallest: least batch that ``run`` accepts.

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
    """Run slices in order, ``batch`` at a time.

    Args:
        run: function that runs a batch.
        slices: [512, 512] Hounsfield units each; the iterable is consumed batch by batch.
        batch: slices per run.
        smallest: least batch that ``run`` accepts.
        advance: called with the number of slices after each run.

    Returns:
        The outputs of all slices, in order.
    """
    coming = iter(slices)
    parts: list[Outputs] = []
    while taken := list(itertools.islice(coming, batch)):
        parts.append(run_batch(run, np.stack(taken), smallest))
        advance(len(taken))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def run_and_compare(
    run: BatchRunner,
    slices: Iterable[NDArray[Any]],
    reference: Outputs,
    limits: Limits,
    *,
    batch: int = 1,
    smallest: int = 1,
) -> Comparison:
    """Run slices in batches and compare the outputs with the reference.

    Args:
        run: function that runs a batch.
        slices: [512, 512] Hounsfield units each.
        reference: float64 outputs of the reference on the slices.
        limits: accepted differences.
        batch: slices per run.
        smallest: least batch that ``run`` accepts.
    """
    outputs = run_slices(run, slices, batch=batch, smallest=smallest)
    return compare_outputs(outputs, reference, limits)
