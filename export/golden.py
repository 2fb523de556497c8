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
from clinreadnet.model.checkpoint import pretrained_path
from clinreadnet.model.network import ClinReadNet
from clinreadnet.runtime.bundle.files import digest
from clinreadnet.runtime.bundle.manifest import Golden
from clinreadnet.runtime.scores import Outputs
from clinreadnet.simulator.simulate import DEGRADATIONS, SimulatedSlice, simulate_anatomy
from clinreadnet.spec import OUTPUTS
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


REFERENCE_NAME = "golden.reference.npz"
"""File beside the shipped checkpoint: its float64 outputs of all slices of `write_golden`."""

Known = dict[str, Outputs]
"""Outputs of slices, n = 1, by the SHA-256 of their pixels."""


def write_golden(
    path: Path,
    model: ClinReadNet,
    bar: Progress,
    note: Callable[[str], None] = lambda line: None,
    known: Known | None = None,
) -> Golden:
    """Simulate slices, compute the float64 reference, and write slices with distinct scores.

    The slices of `clinreadnet.export.hard_slices` are added without labels.

    Args:
        path: file to write. Its bytes depend only on the weights.
        model: float32 network.
        bar: progress display.
        note: called with one line if the scores of all slices are almost equal.
        known: reference outputs that need not be computed, from `known_reference`. Computed outputs
            are added.

    Returns:
        Entry of the manifest.
    """
    known = {} if known is None else known
    task = bar.add_task("Simulating golden slices", total=GOLDEN_ANATOMIES * DEGRADATIONS)
    slices: list[SimulatedSlice] = []
    for anatomy in range(GOLDEN_ANATOMIES):
        slices += simulate_anatomy(GOLDEN_SEED, anatomy).slices
        bar.advance(task, DEGRADATIONS)
    task = bar.add_task("Computing the float64 reference", total=len(slices))
    hu = np.stack([np.round(made.hu).astype(np.int16) for made in slices])
    reference = complete_reference(model, hu, known, lambda n: bar.advance(task, n))
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
    outputs = complete_reference(model, hard, known, lambda n: bar.advance(task, n))
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


def known_reference(checkpoint: Path) -> Known:
    """Return the outputs that are kept beside the shipped checkpoint; none for any other.

    They depend on the checkpoint and the network alone: `make shipped` writes them, and a network
    that computes something else fails its comparison with them.

    Args:
        checkpoint: the file whose golden slices are to be written.
    """
    kept = pretrained_path("small").with_name(REFERENCE_NAME)
    if not kept.is_file():
        return {}
    with np.load(kept, allow_pickle=False) as arrays:
        if str(arrays["weights_sha256"]) != digest(checkpoint.read_bytes()):
            return {}
        slices = arrays["slice"].tolist()
        outputs = {name: arrays[name] for name in OUTPUTS}
    return {
        key: {name: values[i : i + 1] for name, values in outputs.items()}
        for i, key in enumerate(slices)
    }


def save_reference(path: Path, checkpoint: Path, known: Known) -> None:
    """Write what `known_reference` reads.

    Args:
        path: file to write.
        checkpoint: what the outputs are of.
        known: the outputs.
    """
    arrays = {
        name: np.concatenate([outputs[name] for outputs in known.values()]) for name in OUTPUTS
    }
    weights = digest(checkpoint.read_bytes())
    with whole_file(path) as temporary:
        np.savez_compressed(
            temporary, allow_pickle=False, weights_sha256=weights, slice=list(known), **arrays
        )


def complete_reference(
    model: ClinReadNet, hu: NDArray[Any], known: Known, advance: Callable[[int], None]
) -> Outputs:
    """Return the reference's outputs of slices; those that are not known are computed and added."""
    keys = [_key(array) for array in hu]
    missing = [i for i, key in enumerate(keys) if key not in known]
    advance(len(hu) - len(missing))
    if missing:
        computed = reference_outputs(model, GoldenSlices(hu[missing]), advance)
        for place, i in enumerate(missing):
            known[keys[i]] = {name: array[place : place + 1] for name, array in computed.items()}
    return {name: np.concatenate([known[key][name] for key in keys]) for name in known[keys[0]]}


def _key(hu: NDArray[Any]) -> str:
    return digest(np.ascontiguousarray(hu, "<i2").tobytes())


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
