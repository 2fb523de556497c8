"""A small LDCTIQA folder whose labels follow from the noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tifffile


def make_labelled_folder(
    root: Path, *, seed: int = 0, anatomies: int = 3, quality: bool = False
) -> Path:
    """Write some anatomies at four noise levels each; the label falls with the noise.

    With ``quality`` the noiseless quality is recorded too: 0.25 below the label.
    """
    (root / "image").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    scores: dict[str, float] = {}
    images: dict[str, dict[str, float]] = {}
    for i in range(4 * anatomies):
        noise = 0.02 * (1 + i % 4)
        image = np.clip(0.7 + noise * rng.standard_normal((512, 512)), 0, 1).astype(np.float32)
        tifffile.imwrite(root / "image" / f"{i:04}.tif", image)
        scores[f"{i:04}.tif"] = 4.0 - i % 4
        images[f"{i:04}.tif"] = {"anatomy": i // 4}
        if quality:
            images[f"{i:04}.tif"]["quality"] = 3.75 - i % 4
    (root / "train.json").write_text(json.dumps(scores))
    (root / "simulation.json").write_text(json.dumps({"images": images}))
    return root
