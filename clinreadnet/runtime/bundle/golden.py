"""A bundle's golden slices: inputs with the float64 reference's outputs.

`golden.npz` holds ``hu`` int16 [n, 512, 512], ``label`` float32 [n], and float64 outputs: ``score``
[n], ``probs`` [n, 21], ``quality_map`` [n, 16, 16], ``novelty`` [n]. Where local truth is known it
also holds ``quality`` float64 [n], ``tile_quality`` and ``tile_weight`` float32 [n, 16, 16].
``kind`` (text [n], such as "metal") names the slices. A slice that nobody scored has NaN as label
and quality, and no weight; files made before ``kind`` have none.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from clinreadnet.data.npy import NotAnArray, Wanted, has_member, read_members
from clinreadnet.errors import InputError
from clinreadnet.runtime.bundle.files import read_listed
from clinreadnet.runtime.bundle.manifest import OUTPUT_INFOS, Golden
from clinreadnet.spec import MAP_SIDE, SIZE

_TRUTH = {
    "quality": (),
    "tile_quality": (MAP_SIDE, MAP_SIDE),
    "tile_weight": (MAP_SIDE, MAP_SIDE),
}
"""Shapes of one slice; all three are there, or none."""
_KIND = "kind"


def read_golden(
    bundle: str | os.PathLike[str],
    golden: Golden,
    *,
    first: int | None = None,
) -> dict[str, NDArray[Any]]:
    """Return the arrays of `golden.npz` after checking the file.

    Args:
        bundle: the bundle's folder.
        golden: the manifest's entry.
        first: number of slices to unpack; default all.

    Returns:
        ``hu``, ``label``, each output, and where it is known the local truth: ``quality``,
        ``tile_quality``, ``tile_weight``; and ``kind``, where the file has it.

    Raises:
        InputError: the file is missing, differs from the manifest, or lacks an array.
    """
    path = Path(bundle) / golden.file
    content = read_listed(bundle, golden)
    n = golden.slices
    wanted = [
        Wanted("hu", (n, SIZE, SIZE), "i"),
        Wanted("label", (n,)),
        *(Wanted(info.name, (n, *map(int, info.shape[1:]))) for info in OUTPUT_INFOS),
    ]
    try:
        if has_member(io.BytesIO(content), *_TRUTH):
            wanted += [Wanted(name, (n, *shape)) for name, shape in _TRUTH.items()]
        if has_member(io.BytesIO(content), _KIND):
            wanted.append(Wanted(_KIND, (n,), "U"))
        return read_members(io.BytesIO(content), wanted, first)
    except NotAnArray as error:
        raise InputError(f"{path}: not a golden file ({error}); export the bundle again") from None
