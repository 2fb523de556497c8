"""A bundle's golden slices: inputs with the float64 reference's outputs.

`golden.npz` holds ``hu`` int16 [n, 512, 512], ``label`` float32 [n], and float64 outputs: ``score``
[n], ``probs`` [n, 21], ``quality_map`` [n, 16, 16], ``novelty`` [n]. Where local truth is known it
also holds ``quality`` float64 [n], ``tile_quality`` and ``tile_weight`` float32 [n, 16, 16].
"""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.errors import InputError, first_line
from clinreadnet.runtime.bundle.manifest import OUTPUT_INFOS, Golden, OutputInfo, read_listed
from clinreadnet.spec import MAP_SIDE, SIZE

_TRUTH = {
    "quality": (),
    "tile_quality": (MAP_SIDE, MAP_SIDE),
    "tile_weight": (MAP_SIDE, MAP_SIDE),
}
"""Shapes of one slice; all three are there, or none."""


def read_golden(
    bundle: str | os.PathLike[str],
    golden: Golden,
    outputs: Sequence[OutputInfo] = OUTPUT_INFOS,
    first: int | None = None,
) -> dict[str, NDArray[Any]]:
    """Return the arrays of `golden.npz` after checking the file.

    Args:
        bundle: the bundle's folder.
        golden: the manifest's entry.
        outputs: outputs of the bundle's graphs.
        first: number of slices to unpack; default all.

    Returns:
        ``hu``, ``label``, each output, and where it is known the local truth: ``quality``,
        ``tile_quality``, ``tile_weight``.

    Raises:
        InputError: the file is missing, differs from the manifest, or lacks an array.
    """
    path = Path(bundle) / golden.file
    content = read_listed(bundle, golden)
    n = golden.slices
    shapes: dict[str, tuple[int, ...]] = {
        "hu": (n, SIZE, SIZE),
        "label": (n,),
        **{info.name: (n, *map(int, info.shape[1:])) for info in outputs},
    }
    truth = {name: (n, *shape) for name, shape in _TRUTH.items()}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(f"{name}.npy" in archive.namelist() for name in truth):
                shapes |= truth
            return {name: _read(archive, name, shape, first) for name, shape in shapes.items()}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path}: not a golden file ({first_line(error)}); export the bundle again"
        ) from None


def _read(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], first: int | None
) -> NDArray[Any]:
    """Unpack the first rows of one array; the header is checked before the data are read."""
    with archive.open(f"{name}.npy") as member:
        if np.lib.format.read_magic(member) != (1, 0):
            raise ValueError(f"{name} is in another version of the npy format")
        found, columns_first, dtype = np.lib.format.read_array_header_1_0(member)
        if found != shape:
            raise ValueError(f"{name} has shape {list(found)}, expected {list(shape)}")
        if columns_first or dtype.kind not in "iuf":
            raise ValueError(f"{name} holds no plain numbers")
        rows = shape[0] if first is None else min(first, shape[0])
        wanted = (rows, *shape[1:])
        size = math.prod(wanted) * dtype.itemsize
        data = member.read(size)
        if len(data) != size:
            raise ValueError(f"{name} is cut off")
        return np.frombuffer(data, dtype).reshape(wanted)
