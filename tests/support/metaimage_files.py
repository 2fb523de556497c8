"""MetaImage files as other programs write them."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

TYPES = {
    "int16": "MET_SHORT",
    "uint8": "MET_UCHAR",
    "float32": "MET_FLOAT",
    "float64": "MET_DOUBLE",
}


def write_mha(
    path: Path,
    stack: np.ndarray,
    *,
    compress: bool = False,
    msb: bool = False,
    local: bool = True,
    **entries: str,
) -> Path:
    """Write a stack [n, rows, columns] or a slice [rows, columns] as SimpleITK would."""
    content = stack.astype(stack.dtype.newbyteorder(">" if msb else "<")).tobytes()
    if compress:
        content = zlib.compress(content)
    header = {
        "ObjectType": "Image",
        "NDims": str(stack.ndim),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": str(msb),
        "CompressedData": str(compress),
        **({"CompressedDataSize": str(len(content))} if compress else {}),
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "ElementSpacing": "0.7 0.7 1",
        "DimSize": " ".join(map(str, reversed(stack.shape))),
        "ElementType": TYPES.get(stack.dtype.name, "MET_OTHER"),
        **entries,
        "ElementDataFile": "LOCAL" if local else path.with_suffix(".raw").name,
    }
    text = "".join(f"{key} = {value}\n" for key, value in header.items()).encode()
    if local:
        path.write_bytes(text + content)
    else:
        path.write_bytes(text)
        path.with_suffix(".raw").write_bytes(content)
    return path
