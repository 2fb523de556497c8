"""MetaImage files (``.mha``, ``.mhd``): the stacks of slices that the challenge's container reads.

A text header of ``Key = value`` lines ends with ``ElementDataFile``; the voxels follow, plain or
zlib-compressed, x fastest. Only stacks of slices are supported: one channel, 2 or 3 axes.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinreadnet.errors import InputError

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_HEADER_BYTES = 65536


def read_metaimage_header(path: Path) -> tuple[dict[str, str], int]:
    """Return the header's entries and the offset of its end.

    Raises:
        InputError: the file is not a MetaImage file, or of an unsupported kind.
    """
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    header: dict[str, str] = {}
    at = 0
    while "ElementDataFile" not in header:
        end = start.find(b"\n", at)
        key, equals, value = start[at : max(end, at)].decode("latin-1").partition("=")
        if end < 0 or not equals:
            raise InputError(f"{path}: not a MetaImage file; write the stack again")
        header[key.strip()] = value.strip()
        at = end + 1
    if header.get("ElementType") not in _TYPES or header.get("ElementNumberOfChannels", "1") != "1":
        raise InputError(
            f"{path}: holds {header.get('ElementType', 'no ElementType')}, "
            f"{header.get('ElementNumberOfChannels', '1')} to a pixel; write one number to a pixel"
        )
    return header, at


def metaimage_shape(header: dict[str, str], path: Path) -> tuple[int, int, int]:
    """Return the slices, rows and columns of a header.

    Raises:
        InputError: ``DimSize`` is not that of a slice or a stack.
    """
    try:
        sizes = [int(size) for size in header["DimSize"].split()]
    except (KeyError, ValueError):
        sizes = []
    if len(sizes) not in (2, 3) or min(sizes) < 1:
        raise InputError(
            f"{path}: DimSize is {header.get('DimSize')!r}; write a stack of slices, 512 512 N"
        )
    columns, rows, count = (*sizes, 1)[:3]
    return count, rows, columns


def read_metaimage(path: Path) -> NDArray[np.float32]:
    """Read a stack of slices.

    If all values are floats in 0...1, they are encoded like the challenge's images. Otherwise they
    are Hounsfield units.

    Returns:
        [n, rows, columns] float32 Hounsfield units.

    Raises:
        InputError: as in `read_metaimage_header`, or the data are missing, damaged or cut off.
    """
    from clinreadnet.data.ldctiqa import TOLERANCE, decode  # imports tifffile, which is slow

    header, at = read_metaimage_header(path)
    shape = metaimage_shape(header, path)
    source, offset = path, at
    if header["ElementDataFile"] != "LOCAL":
        source, offset = path.parent / header["ElementDataFile"], 0
        if not source.is_file():
            raise InputError(f"{path}: its data file {source.name} is not beside it; copy it there")
    content = source.read_bytes()[offset:]
    big = header.get("BinaryDataByteOrderMSB", header.get("ElementByteOrderMSB", "False"))
    order = ">" if big.lower() == "true" else "<"
    dtype = np.dtype(order + _TYPES[header["ElementType"]])
    size = math.prod(shape) * dtype.itemsize
    if header.get("CompressedData", "False").lower() == "true":
        try:
            content = zlib.decompressobj().decompress(content, size + 1)
        except zlib.error as error:
            raise InputError(f"{path}: damaged ({error}); copy it again") from None
    if len(content) != size:
        raise InputError(
            f"{path}: {len(content)} bytes of pixels or more, but its header promises {size}; "
            "copy it again"
        )
    stack = np.frombuffer(content, dtype).reshape(shape).astype(np.float32)
    if dtype.kind == "f" and stack.min() >= -TOLERANCE and stack.max() <= 1 + TOLERANCE:
        return decode(np.clip(stack, 0, 1))
    return stack
