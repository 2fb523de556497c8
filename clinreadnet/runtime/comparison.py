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

    A difference is infinite if a value is not finite.

    Attributes:
        errors: relative error of each output over all slices.
        by_slice: differences of each slice [n], by name. That of an output is the norm of the
            difference over the root mean square of the reference's norms. "tile" is the largest
            difference of a tile of the quality map, in grades, and "one novelty" the difference of
            the novelty relative to itself.
        limits: accepted differences.
        worst_score_difference: largest difference of a slice's score, in grades; None if the score
            was not compared.
    """

    errors: Mapping[str, float]
    by_slice: Mapping[str, NDArray[np.float64]]
    limits: Limits
    worst_score_difference: float | None

    @property
    def slice_errors(self) -> dict[str, float]:
        """Largest error of a single slice, by output."""
        return {name: float(self.by_slice[name].max()) for name in self.errors}

    @property
    def worst_tile_difference(self) -> float | None:
        """Largest difference of a tile, in grades; None if quality maps were not compared."""
        return float(self.by_slice["tile"].max()) if "tile" in self.by_slice else None

    @property
    def worst_novelty_difference(self) -> float | None:
        """Largest relative difference of a novelty; None if novelties were not compared."""
        return float(self.by_slice["one novelty"].max()) if "novelty" in self.errors else None

    def failures(self, bound: str = "limit") -> list[str]:
        """Return a message for each output above its limit. ``bound`` is the word for "limit"."""
        # NaN fails these comparisons.
        pooled = {
            name: f"{name} is off by {error:.1e} ({bound} {self.limits.error:.0e})"
            for name, error in self.errors.items()
            if not error <= self.limits.error
        }
        worst = {name: float(differences.max()) for name, differences in self.by_slice.items()}
        alone = [text for name, text in self._missed(worst, bound) if name not in pooled]
        return [*pooled.values(), *alone]

    def failure_of(self, index: int, bound: str = "limit") -> str | None:
        """Return a message if a slice exceeds a limit; None if it does not."""
        of_slice = {name: float(self.by_slice[name][index]) for name in self.by_slice}
        return next((text for _, text in self._missed(of_slice, bound)), None)

    def outside(self) -> list[int]:
        """Return the indices of slices that exceed a limit."""
        n = min(map(len, self.by_slice.values()))
        return [index for index in range(n) if self.failure_of(index) is not None]

    def _missed(self, differences: Mapping[str, float], bound: str) -> Iterator[tuple[str, str]]:
        """Yield the name of each difference of a slice that exceeds its limit, with a message."""
        for name, difference in differences.items():
            if name == "novelty":  # "one novelty" has its own limit
                continue
            if name == "tile":
                what, unit, limit = "a tile of quality_map", " grades", self.limits.tile
            elif name == "one novelty":
                what, unit, limit = "a slice's novelty", " of itself", self.limits.novelty
            else:
                what, unit, limit = f"a slice's {name}", "", self.limits.slice_error
            if not difference <= limit:
                digits = ".1e" if name == "one novelty" else ".0e"
                yield name, f"{what} is off by {difference:.1e}{unit} ({bound} {limit:{digits}})"


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
    by_slice = {
        name: _slice_errors(output, reference[name], usual[name])
        for name, output in outputs.items()
    }
    if "quality_map" in outputs:
        by_slice["tile"] = _worst(outputs["quality_map"], reference["quality_map"])
    if "novelty" in outputs:
        scale = np.maximum(np.abs(_rows(reference["novelty"])), np.finfo(np.float64).tiny)
        by_slice["one novelty"] = _worst(outputs["novelty"], reference["novelty"], scale)
    return Comparison(
        {name: relative_error(output, reference[name]) for name, output in outputs.items()},
        by_slice,
        limits,
        float(_worst(outputs["score"], reference["score"]).max()) if "score" in outputs else None,
    )


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


def _worst(
    output: NDArray[Any], reference: NDArray[Any], scale: NDArray[np.float64] | float = 1.0
) -> NDArray[np.float64]:
    """Return the largest difference of each slice [n]; infinite if a value is not finite."""
    difference = np.abs(_rows(output) - _rows(reference)) / scale
    return np.where(np.isfinite(difference), difference, np.inf).max(axis=1)


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
