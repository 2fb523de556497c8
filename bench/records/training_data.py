"""Rotation and grouping of the training data, measured on a simulated folder.

    python -m bench.records.training_data DIR > bench/results/training/data.json

`make tables` writes the summary into docs/training.md.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from bench.records.simulated_set import command
from clinreadnet.data.ldctiqa import LdctiqaFolder, read_ldctiqa
from clinreadnet.training.augment import MAX_DEGREES, rotate
from clinreadnet.training.grouping import SAME_ANATOMY_HU, group_by_similarity, low_pass


def noise(images: Tensor) -> Tensor:
    """Return the spread of the second differences of the middle quarter of each image: [B]."""
    middle = images[:, 128:384, 128:384]
    kernel = torch.tensor([[[[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]]])
    fine = F.conv2d(middle[:, None], kernel)
    return fine.abs().flatten(1).median(dim=1).values


def interpolated(images: Tensor, radians: float, mode: str) -> Tensor:
    """Rotate images [B, N, N] by interpolation."""
    cos, sin = math.cos(radians), math.sin(radians)
    matrix = torch.tensor([[cos, -sin, 0], [sin, cos, 0]]).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, [len(images), 1, *images.shape[1:]], align_corners=False)
    turned = F.grid_sample(images[:, None], grid, mode=mode, align_corners=False)
    return turned[:, 0]


def noise_kept(folder: LdctiqaFolder) -> dict[str, dict[str, float]]:
    """Return the share of the noise that each method of rotation keeps, over all slices."""
    radians = math.radians(MAX_DEGREES)
    kept: dict[str, list[float]] = {"shears": [], "bicubic": [], "bilinear": []}
    for index in range(len(folder)):
        image = torch.from_numpy(folder.hu(index))[None]
        turned = {
            "shears": rotate(image, torch.tensor([radians])),
            **{mode: interpolated(image, radians, mode) for mode in ("bicubic", "bilinear")},
        }
        for name, other in turned.items():
            kept[name].append(float(noise(other) / noise(image)))
    return {
        name: {"lowest": min(v), "median": float(np.median(v)), "highest": max(v)}
        for name, v in kept.items()
    }


def anatomies(folder: LdctiqaFolder) -> dict[str, Any]:
    """Return the low-pass differences within and between anatomies, and the groups found."""
    assert folder.groups is not None, "the folder must name its anatomies"
    images = np.stack([low_pass(folder.hu(i)) for i in range(len(folder))])
    found = group_by_similarity(images)
    distance = squareform(pdist(images)) / math.sqrt(images.shape[1])
    same = folder.groups[:, None] == folder.groups[None]
    others = same & ~np.eye(len(folder), dtype=bool)
    pure = [len(set(folder.groups[found == group])) == 1 for group in np.unique(found)]
    return {
        "threshold_hu": SAME_ANATOMY_HU,
        "largest_hu_to_nearest_of_same": float(np.where(others, distance, np.inf).min(1).max()),
        "largest_hu_within": float(distance[same].max()),
        "smallest_hu_between": float(distance[~same].min()),
        "anatomies": len(np.unique(folder.groups)),
        "groups_found": len(pure),
        "pure_groups": sum(pure),
    }


if __name__ == "__main__":
    opened = read_ldctiqa(Path(sys.argv[1]))
    summary = {
        "command": command(opened, len(opened)),
        "images": len(opened),
        "degrees": MAX_DEGREES,
        "noise_kept": noise_kept(opened),
        "anatomies": anatomies(opened),
    }
    print(json.dumps(summary, indent=1))
