"""A small LDCTIQA folder whose labels follow from the noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tifffile

from clinreadnet.data.tiles import write_tiles


def make_labelled_folder(
    root: Path,
    *,
    seed: int = 0,
    anatomies: int = 3,
    quality: bool = False,
    tiles: bool = False,
) -> Path:
    """Write some anatomies at four noise levels each; the label falls with the noise.

    With ``quality`` the noiseless quality is recorded too: 0.25 below the label. With ``tiles`` the
    left half of each image has a grade less noise, and its tiles say so; the top row is no body.
    """
    (root / "image").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    scores: dict[str, float] = {}
    images: dict[str, dict[str, float]] = {}
    labels: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for i in range(4 * anatomies):
        noise = np.full((512, 512), 0.02 * (1 + i % 4))
        if tiles:
            noise[:, :256] -= 0.02
            labels[f"{i:04}.tif"] = _tiles(i)
        image = np.clip(0.7 + noise * rng.standard_normal((512, 512)), 0, 1).astype(np.float32)
        tifffile.imwrite(root / "image" / f"{i:04}.tif", image)
        scores[f"{i:04}.tif"] = 4.0 - i % 4
        images[f"{i:04}.tif"] = {"anatomy": i // 4}
        if quality:
            images[f"{i:04}.tif"]["quality"] = 3.75 - i % 4
    (root / "train.json").write_text(json.dumps(scores))
    (root / "simulation.json").write_text(json.dumps({"images": images}))
    if tiles:
        write_tiles(root, labels)
    return root


def _tiles(i: int) -> tuple[np.ndarray, np.ndarray]:
    quality = np.full((16, 16), 3.0 - i % 4, np.float32)
    quality[:, :8] += 1
    weight = np.ones((16, 16), np.float32)
    weight[0] = 0
    return quality, weight
