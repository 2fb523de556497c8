"""Compare the score with no-reference measures that need no labels, on a labelled folder.

    python -m bench.records.opponents test-1 --denoiser denoiser.safetensors \
        > clinreadnet/weights/small.opponents.test-1.json

The measures are the global noise level, the signal-to-noise ratio of soft tissue, BRISQUE, and the
likelihood under a denoiser of `bench.records.likelihood`. BRISQUE needs
``pip install brisque opencv-python-headless "numpy<2.4"`` and is left out without it. The sign of
each is such that more is better.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.recording import print_record, run_facts
from bench.records.likelihood import likelihood
from clinreadnet.data.tif import encode
from clinreadnet.evaluation.labels import ceiling, open_labelled
from clinreadnet.metrics import correlations
from clinreadnet.physics import measure_figures
from clinreadnet.physics.windows import SOFT_TISSUE
from clinreadnet.runtime import Session

WATER_HU = 1000.0
"""Difference of water and air: signals are counted from air."""


def noise_level(hu: NDArray[Any]) -> float:
    """Return the global noise level of a slice [512, 512] in HU; NaN without soft tissue."""
    noise = measure_figures(hu).noise_hu
    return float("nan") if noise is None else noise


def brisque() -> Callable[[NDArray[Any]], float] | None:
    """Return a function that computes BRISQUE of a slice, or None without the package."""
    try:
        from brisque import BRISQUE
    except ImportError:
        return None
    model = BRISQUE(url=False)

    def measure(hu: NDArray[Any]) -> float:
        gray = np.rint(255 * encode(hu.astype(np.float32))).astype(np.uint8)
        return float(model.score(np.repeat(gray[..., None], 3, axis=2)))

    return measure


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the agreement of each measure with the labels as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="LDCTIQA folder")
    parser.add_argument("--denoiser", type=Path, help="denoiser of `bench.records.likelihood`")
    options = parser.parse_args(arguments)
    folder = open_labelled(options.data)
    images = [np.rint(folder.hu(i)).astype(np.int16) for i in range(len(folder))]
    noise = np.array([noise_level(image) for image in images])
    with Session(precision="fp32") as session:
        score = session.score(np.stack(images)).score
        weights = session.manifest.model.weights_sha256
    signal = WATER_HU + sum(SOFT_TISSUE) / 2
    measures = {"network": score, "noise": -noise, "snr": signal / noise}
    if (measure := brisque()) is not None:
        measures["brisque"] = -np.array([measure(image) for image in images])
    denoiser = ""
    if options.denoiser is not None:
        likely = likelihood(options.denoiser)
        measures["likelihood"] = np.array([likely(image) for image in images])
        denoiser = f" --denoiser {options.denoiser.name}"
    known = np.isfinite(noise)
    best = ceiling(folder)
    result = {
        **run_facts(f"python -m bench.records.opponents {options.data.name}{denoiser}"),
        "slices": int(known.sum()),
        "left_out": int((~known).sum()),
        "weights_sha256": weights,
        "measures": {
            name: correlations(values[known], folder.scores[known])
            for name, values in measures.items()
        },
        "ceiling": None if best is None else best["sum"]["value"],
    }
    return print_record(result)


if __name__ == "__main__":
    sys.exit(main())
