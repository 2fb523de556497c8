"""Golden slices for the verification of a bundle, and slices for calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from clinreadnet.export.hard_slices import HARD_KINDS, hard_slices
from clinreadnet.files import whole_file
from clinreadnet.model.network import ClinReadNet
from clinreadnet.runtime.bundle.files import digest
from clinreadnet.runtime.bundle.manifest import Golden
from clinreadnet.simulator.simulate import DEGRADATIONS, SimulatedSlice, simulate_anatomy
from clinreadnet.verify.reference import GoldenSlices, reference_outputs

GOLDEN_SEED = 977
"""Seed of the simulator, different from those of training sets."""
GOLDEN_ANATOMIES = 2
SIMULATED_KIND = "simulated"
MIN_GAP = 0.02
"""Least difference of reference scores of golden slices in grades: a tenth of a fine step, and
several times the error of float16. Rounding could swap closer pairs, and each swapped pair changes
KROCC by more than its tolerance."""
MOST_SIMULATED = 20
"""Largest number of simulated golden slices. With the hard ones they fill two default batches."""
MIN_SLICES = 8
"""Least number of distinct scores. With fewer, rank metrics mean little, and all slices are
kept."""


def write_golden(
    path: Path, model: ClinReadNet, bar: Progress, note: Callable[[str], None] = lambda line: None
) -> Golden:
    """Simulate slices, compute the float64 reference, and write slices with distinct scores.

    The slices of `clinreadnet.export.hard_slices` are added without labels.

    Args:
        path: file to write. Its bytes depend only on the weights.
        model: float32 network.
        bar: progress display.
        note: called with one line if the scores of all slices are almost equal.

    Returns:
        Entry of the manifest.
    """
    task = bar.add_task("Simulating golden slices", total=GOLDEN_ANATOMIES * DEGRADATIONS)
    slices: list[SimulatedSlice] = []
    for anatomy in range(GOLDEN_ANATOMIES):
        slices += simulate_anatomy(GOLDEN_SEED, anatomy).slices
        bar.advance(task, DEGRADATIONS)
    task = bar.add_task("Computing the float64 reference", total=len(slices))
    hu = np.stack([np.round(made.hu).astype(np.int16) for made in slices])
    reference = reference_outputs(model, GoldenSlices(hu), lambda n: bar.advance(task, n))
    kept = distinct(reference["score"], MIN_GAP)
    if len(kept) < MIN_SLICES:
        spread = np.ptp(reference["score"])
        note(
            f"the network scores all golden slices within {spread:.2g} grades: is it trained? "
            "Rank metrics of nearly equal scores mean little"
        )
        kept = np.arange(len(hu))
    kept = kept[_evenly(len(kept), MOST_SIMULATED)]
    hard = hard_slices(hu[:: DEGRADATIONS // 2], GOLDEN_SEED)
    task = bar.add_task("Computing the float64 reference of hard slices", total=len(hard))
    outputs = reference_outputs(model, GoldenSlices(hard), lambda n: bar.advance(task, n))
    simulated: dict[str, NDArray[Any]] = {
        "hu": hu,
        "kind": np.full(len(hu), SIMULATED_KIND),
        "label": np.asarray([made.score for made in slices], np.float32),
        "quality": np.asarray([made.quality for made in slices], np.float64),
        "tile_quality": np.stack([made.made.tiles.quality for made in slices]),
        "tile_weight": np.stack([made.made.tiles.weight for made in slices]),
        **reference,
    }
    none = (len(hard), *simulated["tile_quality"].shape[1:])
    unscored: dict[str, NDArray[Any]] = {
        "hu": hard,
        "kind": np.array(HARD_KINDS),
        "label": np.full(len(hard), np.nan, np.float32),
        "quality": np.full(len(hard), np.nan),
        "tile_quality": np.zeros(none, np.float32),
        "tile_weight": np.zeros(none, np.float32),
        **outputs,
    }
    return save_golden(
        path,
        {name: np.concatenate([simulated[name][kept], unscored[name]]) for name in simulated},
    )


def _evenly(count: int, most: int) -> NDArray[np.intp]:
    """Return at most ``most`` evenly spaced indices below ``count``, including both ends."""
    return np.unique(np.round(np.linspace(0, count - 1, min(count, most))).astype(np.intp))


def distinct(scores: NDArray[np.float64], gap: float) -> NDArray[np.intp]:
    """Return the sorted indices of a largest set of scores that differ by at least ``gap``."""
    kept: list[np.intp] = []
    for index in np.argsort(scores, kind="stable"):
        if not kept or scores[index] - scores[kept[-1]] >= gap:
            kept.append(index)
    return np.sort(np.asarray(kept, dtype=np.intp))


def save_golden(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Golden:
    """Write arrays [n, ...] by name; return the entry of the manifest."""
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
    content = path.read_bytes()
    return Golden(path.name, digest(content), len(content), len(arrays["hu"]))


def calibration_slices() -> NDArray[Any]:
    """Simulate the slices of an anatomy outside the golden set: twelve scans, four denoised copies.

    Returns:
        Hounsfield units, float32 [16, 512, 512].
    """
    slices = simulate_anatomy(GOLDEN_SEED, GOLDEN_ANATOMIES).slices
    return np.stack([made.hu for made in slices]).astype(np.float32)
