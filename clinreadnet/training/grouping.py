"""Group the slices of an LDCTIQA folder by anatomy, from the images only.

The challenge's folder does not identify patients, and its slices occur with several degradations,
so a random split would put an anatomy on both sides. Degradation changes fine detail: averaged over
blocks of 16x16 pixels, two degradations of a slice are nearly equal, and two slices are not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 16
_BODY_HU = (-200.0, 300.0)
"""Range of soft tissue and fat, which distinguish neighbouring slices."""

SAME_ANATOMY_HU = 10.0
"""Largest RMS difference of two low-pass slices of an anatomy (measured in docs/training.md)."""


def low_pass(hu: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return a slice [512, 512] in HU averaged over blocks and clipped to soft tissue: [1024]."""
    rows, columns = (length // _BLOCK for length in hu.shape)
    blocks = hu.astype(np.float32).reshape(rows, _BLOCK, columns, _BLOCK).mean(axis=(1, 3))
    return np.clip(blocks, *_BODY_HU).ravel()


def group_by_similarity(
    low_passed: NDArray[np.float32], threshold: float = SAME_ANATOMY_HU
) -> NDArray[np.int64]:
    """Group slices whose low-passed images are linked by differences below ``threshold``.

    Args:
        low_passed: [n, k], from `low_pass`.
        threshold: root mean square difference in HU.

    Returns:
        [n] group of each slice, numbered from 0 by first occurrence.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(low_passed) < 2:
        return np.zeros(len(low_passed), np.int64)
    tree = linkage(low_passed, method="single")
    clusters = fcluster(tree, threshold * np.sqrt(low_passed.shape[1]), criterion="distance")
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def describe_groups(groups: NDArray[np.int64]) -> str:
    """Return the number and the sizes of the groups as text."""
    sizes = np.bincount(groups)
    noun = "anatomy" if len(sizes) == 1 else "anatomies"
    return (
        f"{len(sizes)} {noun}, of {sizes.min()} to {sizes.max()} slices "
        f"(median {np.median(sizes):g})"
    )
