"""Calibrate the intervals of a checkpoint: fit a temperature on labelled slices.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from clinreadnet.errors import InputError
from clinreadnet.evaluation.labels import open_labelled, score_folder
from clinreadnet.files import check_output
from clinreadnet.grades import coverage, covered
from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path, save_checkpoint
from clinreadnet.spec import INTERVAL_MASS

_TEMPERATURES = (0.05, 20.0)


class Calibration(TypedDict):
    """Result of `calibrate_intervals`."""

    slices: int
    temperature: float
    """Temperature of the new checkpoint."""
    before: float
    """Share of labels inside the 90 % intervals of the old checkpoint."""
    after: float
    """Share of labels inside the 90 % intervals of the new checkpoint."""


def fit_temperature(
    probs: NDArray[np.float64], labels: NDArray[np.floating], groups: NDArray[np.int64]
) -> float:
    """Return the temperature at which the 90 % interval covers 90 % of the labels.

    Every anatomy has the same weight, whatever its number of slices.

    Args:
        probs: [n, 21] probabilities at temperature 1.
        labels: [n] the radiologists' scores.
        groups: [n] the anatomy, or patient, of each.

    Returns:
        The divisor of the logits.
    """
    logits = np.log(np.maximum(probs, 1e-30))
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    weights = 1 / sizes[inverse]
    low, high = (np.log(t) for t in _TEMPERATURES)
    for _ in range(40):
        middle = (low + high) / 2
        inside = covered(tempered(logits, float(np.exp(middle))), labels)
        if np.average(inside, weights=weights) < INTERVAL_MASS:
            low = middle
        else:
            high = middle
    return float(np.exp(high))


def tempered(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return the probabilities [n, 21] of logits [n, 21] at a temperature."""
    scaled = logits / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))


def calibrate_intervals(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
) -> Calibration:
    """Write a checkpoint whose 90 % intervals cover 90 % of the labels of a folder.

    Scores and maps change little: the temperature changes only the width of the image's
    distribution.

    Args:
        data: LDCTIQA folder of slices that the network was not trained on.
        out: safetensors file to write, float16.
        checkpoint: safetensors file; default the shipped ``small`` one.

    Raises:
        InputError: unreadable data or checkpoint, fewer than two slices, or ``out`` cannot be
            written.
    """
    source = Path(checkpoint or pretrained_path())
    check_output(Path(out), inputs=[source] if checkpoint else [])
    folder, model = open_labelled(data), load_checkpoint(source)
    groups = np.arange(len(folder)) if folder.groups is None else folder.groups
    probs, labels = score_folder(folder, model)["probs"], folder.scores
    factor = fit_temperature(probs, labels, groups)
    model.head.temperature.mul_(factor)
    after = tempered(np.log(np.maximum(probs, 1e-30)), factor)
    try:
        save_checkpoint(model, out, dtype=torch.float16)
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}; name a file that can be written") from None
    return Calibration(
        slices=len(folder),
        temperature=float(model.head.temperature),
        before=coverage(probs, labels),
        after=coverage(after, labels),
    )
