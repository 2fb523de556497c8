"""Read and write slices as TIFF: float32 [512, 512] in [0, 1], HU = 1400 x - 1000."""

from __future__ import annotations

import io
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from clinreadnet import limits
from clinreadnet.errors import InputError
from clinreadnet.files import read_regular
from clinreadnet.spec import HU_MIN, HU_RANGE, SIZE

_MOST_COUNTED = 64  # limit for counting images in a TIFF, which should have one
_TAG_BYTES = {3: 2, 8: 2} | dict.fromkeys((4, 9, 11, 13), 4) | dict.fromkeys((5, 10, 12), 8)
_TAG_BYTES |= dict.fromkeys((16, 17, 18), 8)
TOLERANCE = 1e-6
"""Tolerance of encoded values outside [0, 1], because other programs round 0 and 1."""


def encode(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return HU encoded as ``clip((HU + 1000) / 1400, 0, 1)``, float32, same shape."""
    scaled = (np.asarray(hu, np.float32) - np.float32(HU_MIN)) / np.float32(HU_RANGE)
    return np.asarray(np.clip(scaled, 0, 1), np.float32)


def decode(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the Hounsfield units of an encoded image, float32, same shape."""
    return np.asarray(x, np.float32) * np.float32(HU_RANGE) + np.float32(HU_MIN)


def write_tif(path: str | os.PathLike[str], hu: NDArray[np.float32]) -> None:
    """Write one slice ``[512, 512]`` of Hounsfield units as an encoded float32 TIFF."""
    # No software tag and no date, so that the bytes depend only on the image.
    tifffile.imwrite(path, encode(hu), photometric="minisblack", metadata=None, software=False)


@contextmanager
def silent_tifffile() -> Iterator[None]:
    """Stop tifffile from logging the errors that it also raises.

    This changes a global setting: with several threads, use one context around all of them.
    """
    log = logging.getLogger("tifffile")
    was_disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was_disabled


def tif_shape(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """Return the shape of a TIFF's first image; its pixels are not read.

    Raises:
        InputError: the file is missing, too large, or not a TIFF.
    """
    with _open_tif(Path(path)) as tif:
        return tuple(tif.pages[0].shape)


@contextmanager
def _open_tif(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF. Exceptions of tifffile inside the block become InputError."""
    content = read_regular(path, limits.TIF_FILE)
    try:
        _check_tags(content)
        with silent_tifffile(), tifffile.TiffFile(io.BytesIO(content)) as tif:
            yield tif
    except InputError:
        raise
    # tifffile passes on the exceptions of its codecs; messages can contain bytes of the file.
    except Exception as error:
        raise InputError(
            f"{path}: not a readable TIFF ({type(error).__name__}); copy it again"
        ) from None


def _check_tags(content: bytes) -> None:
    """Check the number of tags and their sizes: tifffile reads all of them.

    Raises:
        ValueError: there are too many tags, or a tag is larger than the file.
        struct.error: the file is truncated.
    """
    order = {b"II": "<", b"MM": ">"}.get(content[:2], "<")
    big = content[2:4] in (b"+\0", b"\0+")
    count_form, tag_form, next_form = ("Q", "HHQ8x", "Q") if big else ("H", "HHL4x", "L")
    (at,) = struct.unpack_from(order + next_form, content, 8 if big else 4)
    for _ in range(_MOST_COUNTED):
        if at == 0:
            return
        (tags,) = struct.unpack_from(order + count_form, content, at)
        if tags > limits.TIF_TAGS:
            raise ValueError
        at += struct.calcsize(order + count_form)
        claimed = 0
        for _ in range(tags):
            _, kind, values = struct.unpack_from(order + tag_form, content, at)
            claimed += values * _TAG_BYTES.get(kind, 1)
            at += struct.calcsize(order + tag_form)
        if claimed > len(content):
            raise ValueError
        (at,) = struct.unpack_from(order + next_form, content, at)


def _count_images(tif: tifffile.TiffFile) -> int:
    """Return the number of images of a TIFF; `_MOST_COUNTED` for more."""
    for count in range(1, _MOST_COUNTED):
        try:
            tif.pages[count]
        except IndexError:
            return count
    return _MOST_COUNTED


def read_tif(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read one encoded slice.

    Returns:
        ``[512, 512]`` float32 Hounsfield units, -1000...400.

    Raises:
        InputError: the file is missing or unreadable, needs a package that is not installed, is not
            512x512, or contains values outside [0, 1] or NaN.
    """
    path = Path(path)
    with _open_tif(path) as tif:
        # Sizes are checked before pixels are unpacked, because a small file can state any size.
        # `TiffFile.series` is not used: it reads every page, and 300 bytes can state millions.
        page, images = tif.pages.first, _count_images(tif)
        shape, dtype = tuple(page.shape), np.dtype(page.dtype)
        if images > 1:
            shape = (images, *shape)
        if shape != (SIZE, SIZE):
            raise InputError(
                f"{path}: is {'x'.join(map(str, shape[:8])) or 'empty'}; "
                f"an LDCTIQA image is one slice, {SIZE}x{SIZE}"
            )
        if dtype.kind != "f":
            raise InputError(
                f"{path}: holds {dtype}; an LDCTIQA image is float32 in [0, 1], "
                "(HU + 1000) / 1400: encode it so"
            )
        if page.is_tiled or page.rowsperstrip > SIZE or len(page.dataoffsets) > SIZE:
            raise InputError(
                f"{path}: stored in tiles, or in strips larger than the image; save it again"
            )
        with np.errstate(over="ignore"):
            x = _pixels(page, path).astype(np.float32)
    if x.shape != (SIZE, SIZE):
        raise InputError(f"{path}: its pixels do not match its header; copy it again")
    if not np.isfinite(x).all():
        raise InputError(f"{path}: holds values that are not numbers; write it again without them")
    low, high = float(x.min()), float(x.max())
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise InputError(
            f"{path}: values {low:.6g}...{high:.6g} are outside [0, 1]; "
            "encode HU as (HU + 1000) / 1400, clipped"
        )
    return decode(np.clip(x, 0, 1))


def _pixels(page: tifffile.TiffPage | tifffile.TiffFrame, path: Path) -> NDArray[Any]:
    try:
        return page.asarray()
    except (ImportError, ValueError) as error:
        if isinstance(error, ValueError) and "imagecodecs" not in str(error):
            raise
        method = getattr(page.compression, "name", "an unknown method")
        raise InputError(
            f"{path}: compressed with {method}, which needs another package: run "
            "`pip install imagecodecs`, or save it without compression"
        ) from None
