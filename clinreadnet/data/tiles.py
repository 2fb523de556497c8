"""Read and write `tiles.npz` of an LDCTIQA folder: the quality of each 32x32 tile.

Only simulated folders have this file. It contains ``names`` [n], ``quality`` float32
[n, 16, 16] in 0...4 and ``weight`` float32 [n, 16, 16], the share of body around each tile.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinreadnet import limits
from clinreadnet.data.npy import NotAnArray, Wanted, read_members
from clinreadnet.errors import InputError
from clinreadnet.files import open_regular
from clinreadnet.spec import MAP_SIDE

TILES_FILE = "tiles.npz"
_ADVICE = "simulate the folder again, or delete this file to go without tile labels"


@dataclass(frozen=True)
class TileLabels:
    """Tile labels of n images.

    Attributes:
        quality: float32 [n, 16, 16], noiseless quality 0...4; 0 where there is no label.
        weight: float32 [n, 16, 16], share of body; all 0 for an image without tile labels.
    """

    quality: NDArray[np.float32]
    weight: NDArray[np.float32]

    @property
    def labelled(self) -> int:
        """Number of images that have tile labels."""
        return int((self.weight > 0).any(axis=(1, 2)).sum())


def write_tiles(
    folder: str | os.PathLike[str],
    tiles: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> None:
    """Write ``tiles.npz`` into a folder. The bytes depend only on the tiles.

    Args:
        folder: an LDCTIQA folder.
        tiles: quality and weight, [16, 16] each, by file name.
    """
    quality, weight = (
        np.stack(part).astype(np.float32) for part in zip(*tiles.values(), strict=True)
    )
    np.savez_compressed(
        Path(folder) / TILES_FILE,
        allow_pickle=False,
        names=np.array(list(tiles)),
        quality=quality,
        weight=weight,
    )


def read_tiles(folder: str | os.PathLike[str], names: Sequence[str]) -> TileLabels | None:
    """Read the tile labels of some images.

    Args:
        folder: an LDCTIQA folder.
        names: file names of its images.

    Returns:
        The labels in the order of ``names``, with weight 0 for images without labels; None if the
        file does not exist.

    Raises:
        InputError: the file cannot be read, its tiles have another grid, or values are out of
            range.
    """
    path = Path(folder) / TILES_FILE
    if not path.exists():
        return None
    grid = (None, MAP_SIDE, MAP_SIDE)
    wanted = [
        Wanted("names", (None,), "U", limits.TILES),
        *(Wanted(name, grid, "f", limits.TILES) for name in ("quality", "weight")),
    ]
    try:
        with open_regular(path) as file:
            arrays = read_members(file, wanted)
    except NotAnArray as error:
        raise InputError(f"{path}: not a file of tile labels ({error}); {_ADVICE}") from None
    listed, quality, weight = (arrays[member.name] for member in wanted)
    if not len(listed) == len(quality) == len(weight):
        raise InputError(f"{path}: the numbers of tiles and names differ; {_ADVICE}")
    for what, array in (("quality", quality), ("weight", weight)):
        if not np.isfinite(array).all() or (array < 0).any():
            raise InputError(f"{path}: {what} contains values that are not tile labels; {_ADVICE}")
    if (quality > 4).any() or (weight > 1.001).any():
        raise InputError(f"{path}: quality above 4, or weight above 1; {_ADVICE}")
    place = {name: i for i, name in enumerate(listed.tolist())}
    labels = TileLabels(
        np.zeros((len(names), MAP_SIDE, MAP_SIDE), np.float32),
        np.zeros((len(names), MAP_SIDE, MAP_SIDE), np.float32),
    )
    for i, name in enumerate(names):
        if name in place:
            labels.quality[i], labels.weight[i] = quality[place[name]], weight[place[name]]
    return labels
