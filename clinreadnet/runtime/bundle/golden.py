"""Read the golden slices of a bundle: inputs with the outputs of the float64 reference.

`golden.npz` holds ``hu`` int16 [n, 512, 512], ``label`` float32 [n], and float64 outputs: ``score``
[n], ``probs`` [n, 21], ``quality_map`` [n, 16, 16], ``novelty`` [n]. If tile labels are known it
also contains ``quality`` float64 [n], ``tile_quality`` and ``tile_weight`` float32 [n, 16, 16].
``kind`` (text [n], such as "metal") names the slices; older files do not have it. For a slice
without labels, label and quality are NaN and the weight is 0.
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
"""Shapes per slice of the optional arrays; either all three exist or none."""
_KIND = "kind"


def read_golden(
    bundle: str | os.PathLike[str],
    golden: Golden,
    *,
    first: int | None = None,
) -> dict[str, NDArray[Any]]:
    """Read and check the arrays of `golden.npz`.

    Args:
        bundle: the bundle's folder.
        golden: entry of the manifest.
        first: number of slices to unpack; default all.

    Returns:
        ``hu``, ``label``, each output and, if the file has them, ``quality``, ``tile_quality``,
        ``tile_weight`` and ``kind``.

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
