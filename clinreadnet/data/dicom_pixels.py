"""Decode the stored pixel values of one DICOM frame."""

from __future__ import annotations

import math
import struct
import warnings
from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)

BITS = (16, 32)
"""Supported values of BitsAllocated."""

LEAST_BITS_STORED = 10
"""Smallest BitsStored. Fewer than 1024 values cannot hold Hounsfield units from air to bone."""

_SLACK = 4096
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # JPEG and JPEG-LS


_EIGHT_BITS = {JPEGBaseline8Bit: {"pillow"}, JPEGExtended12Bit: {"pillow"}}
"""Plugins of pydicom that decode at most 8 bits, which cannot hold Hounsfield units."""


def can_decode(syntax: UID) -> bool:
    """Return whether CT pixels in a transfer syntax can be decoded with the installed packages.

    Raises:
        NotImplementedError: pydicom cannot decode the transfer syntax with any package.
    """
    decoder = get_decoder(syntax)
    return decoder.is_available and (
        not syntax.is_encapsulated
        or bool(set(decoder.available_plugins) - _EIGHT_BITS.get(syntax, set()))
    )


def native_syntax(syntax: UID) -> UID:
    """Return the uncompressed transfer syntax for a file whose pixels are not compressed."""
    return ExplicitVRLittleEndian if syntax.is_encapsulated else syntax


class Undecodable(Exception):
    """The bytes do not decode to a frame; the message gives the reason."""


@dataclass(frozen=True)
class Coding:
    """How the frames of a file are stored.

    Attributes:
        syntax: transfer syntax.
        rows: image height.
        columns: image width.
        bits_allocated: bits allocated for a value, 16 or 32.
        bits_stored: bits used by a value, at most ``bits_allocated``.
        signed: whether values are in two's complement.
    """

    syntax: UID
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool

    @property
    def native(self) -> bool:
        """Whether the pixels are not compressed."""
        return not self.syntax.is_encapsulated

    @property
    def frame_bytes(self) -> int:
        """Size of an uncompressed frame in bytes."""
        return self.rows * self.columns * self.bits_allocated // 8


def decode(content: bytes, coding: Coding) -> NDArray[np.signedinteger | np.unsignedinteger]:
    """Return the stored values [rows, columns] of one frame.

    Raises:
        Undecodable: the content does not decode to a frame.
    """
    if coding.native:
        order = "<" if coding.syntax.is_little_endian else ">"
        return _integers(content, coding, order)
    if len(content) > 2 * coding.frame_bytes + _SLACK:
        raise Undecodable("it is larger than the uncompressed pixels")
    if coding.syntax == RLELossless:
        return _integers(_unpack_rle(content, coding), coding, ">")
    size = encoded_size(content)
    if size != (coding.rows, coding.columns):
        stated = "no size" if size is None else f"{size[0]}x{size[1]}"
        raise Undecodable(f"the image in it has {stated}, not {coding.rows}x{coding.columns}")
    return _decode_with_pydicom(content, coding)


def _integers(
    content: bytes, coding: Coding, order: str
) -> NDArray[np.signedinteger | np.unsignedinteger]:
    if len(content) < coding.frame_bytes:
        raise Undecodable(f"{len(content)} of {coding.frame_bytes} bytes are there")
    dtype = np.dtype(f"{order}{'i' if coding.signed else 'u'}{coding.bits_allocated // 8}")
    count = coding.rows * coding.columns
    values = np.frombuffer(content, dtype, count).astype(dtype.newbyteorder("="))
    unused = coding.bits_allocated - coding.bits_stored
    if unused:  # they may hold an overlay
        values = (values << unused) >> unused
    return values.reshape(coding.rows, coding.columns)


def _unpack_rle(content: bytes, coding: Coding) -> bytes:
    """Decode an RLE frame; return big-endian values."""
    planes = coding.bits_allocated // 8
    if len(content) < 64:
        raise Undecodable("no RLE header")
    count, *offsets = struct.unpack("<16L", content[:64])
    if count != planes:
        raise Undecodable("the number of RLE segments differs from the bytes of a value")
    ends = [*offsets[1:count], len(content)]
    pixels = coding.rows * coding.columns
    frame = np.empty((pixels, planes), np.uint8)
    for plane, (start, end) in enumerate(zip(offsets[:count], ends, strict=True)):
        if not 64 <= start <= end <= len(content):
            raise Undecodable("RLE segments out of place")
        frame[:, plane] = np.frombuffer(_unpack_bits(content[start:end], pixels), np.uint8)
    return frame.tobytes()


def _unpack_bits(segment: bytes, size: int) -> bytes:
    """Unpack a PackBits segment of exactly ``size`` bytes."""
    parts: list[bytes] = []
    at = made = 0
    while made < size and at < len(segment):
        head = segment[at]
        if head < 128:
            part = segment[at + 1 : at + 2 + head]
            at += 2 + head
        elif head > 128:
            part = segment[at + 1 : at + 2] * (257 - head)
            at += 2
        else:
            part = b""
            at += 1
        parts.append(part)
        made += len(part)
    if made < size:
        raise Undecodable("an RLE segment ends early")
    return b"".join(parts)[:size]


def encoded_size(content: bytes) -> tuple[int, int] | None:
    """Return the rows and columns in the header of a JPEG, JPEG-LS or JPEG 2000 image.

    Decoders allocate memory by this size, whatever the DICOM header says. None if it is not found.
    """
    start = content.find(b"\xff\x4f\xff\x51", 0, 1024)  # alone, or after the boxes of a .jp2
    if start >= 0 and len(content) >= start + 24:
        right, bottom, left, top = struct.unpack(">4L", content[start + 8 : start + 24])
        return max(bottom - top, 0), max(right - left, 0)
    if content[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # fill bytes
            at += 1
            continue
        if marker in _SOF:
            rows, columns = struct.unpack(">2H", content[at + 5 : at + 9])
            return rows, columns
        at += 2 + struct.unpack(">H", content[at + 2 : at + 4])[0]
    return None


def _decode_with_pydicom(
    content: bytes, coding: Coding
) -> NDArray[np.signedinteger | np.unsignedinteger]:
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = coding.syntax
    ds.Rows, ds.Columns = coding.rows, coding.columns
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored = coding.bits_allocated, coding.bits_stored
    ds.HighBit, ds.PixelRepresentation = coding.bits_stored - 1, int(coding.signed)
    ds.PixelData = encapsulate([content])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            stored = pixel_array(ds, index=0, raw=True)
        except Exception as error:  # each decoder raises its own types
            raise Undecodable(type(error).__name__) from None
    if stored.shape != (coding.rows, coding.columns):
        raise Undecodable(f"{math.prod(stored.shape)} values, not one per pixel")
    return stored
