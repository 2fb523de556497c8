"""Load labelled slices into memory and split them by anatomy."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinreadnet.console import console, progress_bar
from clinreadnet.data.ldctiqa import DataSource, LdctiqaFolder, check_images, read_ldctiqa
from clinreadnet.data.tif import silent_tifffile
from clinreadnet.data.tiles import TileLabels, read_tiles
from clinreadnet.errors import InputError, counted
from clinreadnet.spec import MAP_SIDE, SIZE
from clinreadnet.training.grouping import describe_groups, group_by_similarity, low_pass

_READERS = 4
"""Number of threads that read images. Decoding releases the GIL."""


@dataclass(frozen=True)
class LabelledSlices:
    """Labelled slices in memory, 0.5 MiB each."""

    hu: NDArray[np.int16]
    """[m, 512, 512] Hounsfield units; subsets share this array."""
    rows: NDArray[np.int64]
    """[n] index of each slice in ``hu``."""
    scores: NDArray[np.float32]
    """[n] true scores 0...4."""
    quality: NDArray[np.float32]
    """[n] noiseless quality 0...4; NaN if it is not recorded."""
    groups: NDArray[np.int64]
    """[n] anatomy, or patient, of each slice."""
    denoised: NDArray[np.bool_]
    """[n] whether each slice is a simulated scan after a denoiser."""
    tiles: TileLabels
    """Tile labels of all slices in ``hu``; weight 0 without labels."""
    sources: tuple[DataSource, ...] = ()
    """The folders of all slices in ``hu``."""

    def __len__(self) -> int:
        return len(self.scores)

    def subset(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> LabelledSlices:
        """Return the slices selected by a mask ``index`` [n] or indices [k]."""
        each = ("rows", "scores", "quality", "groups", "denoised")
        return replace(self, **{name: getattr(self, name)[index] for name in each})

    def thinned(self, most: int) -> LabelledSlices:
        """Return at most ``most`` evenly spaced slices."""
        kept = np.zeros(len(self), np.bool_)
        kept[np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(int)] = True
        return self.subset(kept)

    def with_denoised_repeated(self, times: int) -> LabelledSlices:
        """Return the slices with every denoised one repeated ``times`` times."""
        return self.subset(np.repeat(np.arange(len(self)), np.where(self.denoised, times, 1)))

    def digest(self) -> str:
        """Return what tells these labels, in this order, from others."""
        hashed = hashlib.sha256()
        for values in (self.scores, self.groups, self.denoised):
            hashed.update(np.ascontiguousarray(values).tobytes())
        return hashed.hexdigest()

    def images(self, index: NDArray[np.int64]) -> NDArray[np.int16]:
        """Return the images of the slices ``index`` [k], a copy: [k, 512, 512]."""
        return self.hu[self.rows[index]]

    def tiles_of(self, index: NDArray[np.int64]) -> TileLabels:
        """Return the tile labels of the slices ``index`` [k]."""
        rows = self.rows[index]
        return TileLabels(self.tiles.quality[rows], self.tiles.weight[rows])


def load_slices(
    folders: Sequence[str | os.PathLike[str]], *, quiet: bool = False
) -> LabelledSlices:
    """Read LDCTIQA folders into memory.

    All folders are checked before the first image is read. Slices of a folder without
    ``simulation.json`` are grouped into anatomies by low-pass similarity, and the result is
    printed. Slices without tile labels (`tiles.npz`) have only the label of the image. If only some
    slices of a folder have tile labels, their number is printed.

    Args:
        folders: LDCTIQA folders, simulated or real.
        quiet: print nothing.

    Raises:
        InputError: a folder is repeated or cannot be used, or two show phantoms of one seed.
    """
    paths = [Path(folder).resolve() for folder in folders]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise InputError(f"{folders[i]}: named twice; its slices would be on both sides")
    opened = [read_ldctiqa(folder) for folder in folders]
    _check_seeds(opened)
    for labelled in opened:
        check_images(labelled)
    count = sum(map(len, opened))
    try:
        hu = np.empty((count, SIZE, SIZE), np.int16)
    except MemoryError:
        raise InputError(
            f"{count} slices need {count / 2048:.1f} GiB of memory, which is not free; name fewer"
        ) from None
    tiles = [_read_tiles(labelled, quiet) for labelled in opened]
    groups, qualities, first, at = [], [], 0, 0
    for labelled in opened:
        part = hu[at : at + len(labelled)]
        _read(labelled, part, quiet)
        labels = labelled.groups
        if labels is None:
            labels = group_by_similarity(np.stack([low_pass(image) for image in part]))
            if not quiet:
                console.print(
                    f"{labelled.folder}: no simulation.json; by low-pass similarity "
                    f"{len(labelled)} slices show {describe_groups(labels)}",
                    highlight=False,
                    soft_wrap=True,
                )
        quality = labelled.quality
        qualities.append(np.full(len(labelled), np.nan) if quality is None else quality)
        groups.append(labels.astype(np.int64) + first)
        first, at = int(groups[-1].max()) + 1, at + len(labelled)
    return LabelledSlices(
        hu,
        np.arange(count),
        np.concatenate([labelled.scores for labelled in opened]),
        np.concatenate(qualities).astype(np.float32),
        np.concatenate(groups),
        np.concatenate([labelled.denoised for labelled in opened]),
        TileLabels(
            np.concatenate([labelled.quality for labelled in tiles]),
            np.concatenate([labelled.weight for labelled in tiles]),
        ),
        tuple(labelled.source for labelled in opened),
    )


def _check_seeds(opened: Sequence[LdctiqaFolder]) -> None:
    """Check that no two folders show the phantoms of one seed, which would be on both sides."""
    first: dict[int, Path] = {}
    for labelled in opened:
        seed = labelled.source["seed"]
        drawn = labelled.records is not None and "slice" not in labelled.records[0]
        if seed is None or not drawn:
            continue
        if seed in first:
            raise InputError(
                f"{labelled.folder}: shows the anatomies of {first[seed]}, seed {seed}; simulate "
                "with another seed"
            )
        first[seed] = labelled.folder


def _read_tiles(folder: LdctiqaFolder, quiet: bool) -> TileLabels:
    """Read the tile labels of a folder; weight 0 if there are none."""
    tiles = read_tiles(folder.folder, folder.names)
    if tiles is None:
        grid = (len(folder), MAP_SIDE, MAP_SIDE)
        return TileLabels(np.zeros(grid, np.float32), np.zeros(grid, np.float32))
    if tiles.labelled < len(folder) and not quiet:
        console.print(
            f"{folder.folder}: {counted(tiles.labelled, 'slice', len(folder), verb='has')} tile "
            "labels; the "
            "others are trained on their image's label alone",
            highlight=False,
            soft_wrap=True,
        )
    return tiles


def _read(folder: LdctiqaFolder, into: NDArray[np.int16], quiet: bool) -> None:
    """Read the images of a folder into ``into`` [n, 512, 512]."""

    def read(index: int) -> None:
        into[index] = np.rint(folder.hu(index))

    with progress_bar(quiet=quiet) as bar, silent_tifffile(), ThreadPoolExecutor(_READERS) as pool:
        done = pool.map(read, range(len(folder)))
        for _ in bar.track(done, total=len(folder), description=f"read {folder.folder.name}"):
            pass


def split_by_anatomy(
    slices: LabelledSlices, share: float, seed: int
) -> tuple[LabelledSlices, LabelledSlices]:
    """Split into (training, validation), without splitting an anatomy.

    Args:
        slices: slices to split.
        share: share of held-out anatomies; at least one is held out.
        seed: seed of the split.

    Raises:
        InputError: there are fewer than two anatomies.
    """
    anatomies = np.unique(slices.groups)
    if len(anatomies) < 2:
        raise InputError("the training data holds fewer than two anatomies; simulate more slices")
    shuffled = np.random.default_rng(seed).permutation(anatomies)
    held_out = shuffled[: max(1, round(share * len(anatomies)))]
    validation = np.isin(slices.groups, held_out)
    return slices.subset(~validation), slices.subset(validation)
