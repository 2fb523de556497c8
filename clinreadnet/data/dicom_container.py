"""Read the header of a DICOM file and locate the bytes of each frame.

A file is recognised as DICOM by its structure: a preamble, or data elements that contain a SOP
class. Files without a preamble or without meta information are supported. No length is trusted:
each is compared with the size of the file before memory is allocated, and inflated data has a limit
(see `clinreadnet.limits`).
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from clinreadnet import limits
from clinreadnet.data.character_sets import to_utf8
from clinreadnet.errors import InputError
from clinreadnet.files import open_regular

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # CT Image Storage, of one frame
CT_CLASSES = {
    CT_IMAGE,
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
    "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
}
DEFLATED = UID("1.2.840.10008.1.2.1.99")

Span = tuple[int, int]
"""Offset and length of some bytes of a file."""

_PREAMBLE = 132
_START = 4096  # bytes within which elements name the SOP class of a file without a preamble
_MEDIA_CLASS, _CLASS, _KIND_ENDS = 0x00020002, 0x00080016, 0x00080060
_UID = re.compile(rb"[0-9]+(\.[0-9]+)+[\0 ]?")
_PIXELS = 0x7FE00010
_AFTER_HEADER = (0x7FE00008, 0x7FE00009, _PIXELS)  # float, double and integer pixels
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")  # JPEG and JPEG-LS, JPEG 2000
_ITEM, _ITEMS_END = 0xFFFEE000, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_LENGTH = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"}
_MOST_META = 64
_FRAGMENTS_PER_FRAME = 512
_MOST_FRAGMENTS = 2**18
_READS_PER_ELEMENT = 2  # header and value of an element; most values are skipped


class NotDicom(Exception):
    """The file does not have the structure of a DICOM file."""


class Damaged(Exception):
    """The file claims to be DICOM and is damaged; the message says how."""


@dataclass(frozen=True)
class Container:
    """Structure of a DICOM file, without the pixel values.

    Attributes:
        syntax: transfer syntax.
        media_class: SOP class of the meta information; empty without one.
        header: the requested data elements before the pixels.
        pixels: byte range of the value of PixelData (in the inflated file if it is deflated), cut
            at the end of the file; None without pixels.
        pieces: byte ranges of the fragments of compressed pixels, in order; otherwise empty.
        table: offsets of the frames from the item of the first fragment; empty without a table.
        starts: fragments that begin a JPEG, JPEG-LS or JPEG 2000 image, if there are several frames
            and more fragments than frames.
    """

    syntax: UID
    media_class: str
    header: pydicom.Dataset
    pixels: Span | None
    pieces: tuple[Span, ...] = ()
    table: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()

    def spans(self, frames: int, native_bytes: int | None) -> list[tuple[Span, ...]]:
        """Return the byte ranges of each frame.

        Args:
            frames: number of frames.
            native_bytes: size of an uncompressed frame; None for compressed frames.

        Raises:
            Damaged: some bytes are missing.
        """
        if native_bytes is not None:
            offset, there = self.pixels or (0, 0)
            needed = frames * native_bytes
            if there < needed:
                raise Damaged(f"truncated, {there} of {needed} pixel bytes are there")
            return [((offset + i * native_bytes, native_bytes),) for i in range(frames)]
        if frames == 1 and self.pieces:
            return [self.pieces]
        if len(self.pieces) == frames:
            return [(piece,) for piece in self.pieces]
        if len(self.pieces) < frames:
            raise Damaged(f"truncated, {len(self.pieces)} of {frames} compressed frames are there")
        return self._by_table(frames)

    def _by_table(self, frames: int) -> list[tuple[Span, ...]]:
        places = {piece[0] - self.pieces[0][0]: i for i, piece in enumerate(self.pieces)}
        first = tuple(places.get(offset, -1) for offset in self.table)
        if not _in_order(first, frames):
            first = self.starts
        if not _in_order(first, frames):
            raise Damaged("compressed frames in fragments without a table of their offsets")
        ends = [*first[1:], len(self.pieces)]
        return [self.pieces[a:b] for a, b in zip(first, ends, strict=True)]


def _in_order(first: Sequence[int], frames: int) -> bool:
    """Return whether these can be the first fragments of the frames."""
    return len(first) == frames and first[0] == 0 and sorted(set(first)) == list(first)


def read_container(
    path: Path,
    tags: Sequence[int | str | tuple[int, int]],
    check: Callable[[pydicom.Dataset, str], None] = lambda header, media_class: None,
    content: bytes | None = None,
) -> Container:
    """Read the header of a file.

    Args:
        path: the file.
        tags: data elements to keep.
        check: called with the elements of ``tags`` and the SOP class of the meta information before
            the pixels are located. If that class is not CT, it is also called after Modality
            (0008,0060). Its exceptions are not caught.
        content: bytes of the file, if it is not on disk.

    Raises:
        NotDicom: the file does not have the structure of DICOM.
        Damaged: the file is damaged or beyond a limit.
        InputError: the file cannot be read.
    """
    with _open(path, content) as file:
        size = file.seek(0, os.SEEK_END)
        _skip_preamble(file, path)
        syntax, media_class = _read_meta(file)
        syntax = syntax or _guess_syntax(file)
        try:
            implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
        except ValueError:
            if not syntax:
                raise Damaged("no TransferSyntaxUID") from None
            check(pydicom.Dataset(), media_class)
            raise InputError(
                f"{path}: written in a private transfer syntax, which is not readable here; "
                "convert the file to Explicit VR Little Endian"
            ) from None
        source: BinaryIO = file
        if syntax == DEFLATED:
            source = io.BytesIO(_inflate(file.read()))
            size = len(source.getbuffer())
        begin = source.tell()
        wanted = [Tag(tag) for tag in tags]

        def read(ends: Callable[[int], bool]) -> pydicom.Dataset:
            source.seek(begin)
            return read_dataset(
                _Counted(source, size),
                implicit,
                little,
                stop_when=lambda tag, vr, length: ends(tag),
                specific_tags=wanted,
            )

        if media_class not in CT_CLASSES:
            # Other objects can have long headers, such as contours or the records of a DICOMDIR.
            check(read(lambda tag: tag > _KIND_ENDS or tag >> 16 == 4), media_class)
        header = read(lambda tag: tag in _AFTER_HEADER)
        check(header, media_class)
        to_utf8(header)
        # The file's content decides, whatever the transfer syntax declares.
        implicit = bool(header.original_encoding[0])
        pixels, undefined = _find_pixels(source, size, implicit, little)
        items = _walk_items(source, pixels, header) if pixels and undefined else ()
        table = _read_table(source, items[0]) if items else ()
        starts: tuple[int, ...] = ()
        if len(items) - 1 > number_of_frames(header) > 1:
            starts = tuple(i for i, item in enumerate(items[1:]) if _begins_image(source, item))
    return Container(syntax, media_class, header, pixels, items[1:], table, starts)


def _open(path: Path, content: bytes | None) -> BinaryIO:
    return open_regular(path) if content is None else io.BytesIO(content)


def read_spans(
    path: Path, spans: Sequence[Span], *, deflated: bool, content: bytes | None = None
) -> bytes:
    """Return the concatenated bytes of some ranges; arguments as in `read_container`.

    Raises:
        Damaged: the file has become shorter.
        InputError: the file cannot be read.
    """
    with _open(path, content) as file:
        source: BinaryIO = file
        if deflated:
            _skip_preamble(file, path)
            _read_meta(file)
            source = io.BytesIO(_inflate(file.read()))
        parts = []
        for offset, length in spans:
            source.seek(offset)
            parts.append(source.read(length))
            if len(parts[-1]) != length:
                raise Damaged("the file became shorter while it was read")
    return b"".join(parts)


def _skip_preamble(file: BinaryIO, path: Path) -> None:
    """Seek to the first data element: after the preamble, if there is one."""
    file.seek(0)
    start = file.read(_START)
    if start[_PREAMBLE - 4 : _PREAMBLE] == b"DICM":
        file.seek(_PREAMBLE)
    elif any(_names_class(start, explicit, order) for explicit, order in _ENCODINGS):
        file.seek(0)
    elif _names_class(start[_PREAMBLE:], True, "<"):
        raise InputError(
            f"{path}: damaged DICOM file, its preamble does not end with DICM; export the file "
            "again from its source"
        )
    else:
        raise NotDicom


_ENCODINGS = {
    (True, "<"): ExplicitVRLittleEndian,
    (False, "<"): ImplicitVRLittleEndian,
    (True, ">"): ExplicitVRBigEndian,
}
"""Encodings of data elements: explicit or implicit VR, and the byte order."""


def _guess_syntax(file: BinaryIO) -> UID:
    """Return the transfer syntax of the elements at this position; empty if there are none."""
    at = file.tell()
    start = file.read(_START)
    file.seek(at)
    for (explicit, order), syntax in _ENCODINGS.items():
        if _names_class(start, explicit, order):
            return syntax
    return UID("")


def _names_class(start: bytes, explicit: bool, order: str) -> bool:
    """Return whether the bytes are data elements in ascending order that include a SOP class."""
    at, last = 0, 0
    while at + 8 <= len(start):
        group, element = struct.unpack_from(f"{order}HH", start, at)
        tag, kind = group << 16 | element, start[at + 4 : at + 6]
        if group not in (2, 8) or (at and tag <= last):
            return False
        if not explicit:
            (length,), value = struct.unpack_from(f"{order}L", start, at + 4), at + 8
        elif not (kind.isalpha() and kind.isupper()):
            return False
        elif kind not in _LONG_LENGTH:
            (length,), value = struct.unpack_from(f"{order}H", start, at + 6), at + 8
        elif at + 12 <= len(start):
            (length,), value = struct.unpack_from(f"{order}L", start, at + 8), at + 12
        else:
            return False
        if tag in (_MEDIA_CLASS, _CLASS):
            return _UID.fullmatch(start[value : value + length]) is not None
        at, last = value + length, tag
    return False


def _read_meta(file: BinaryIO) -> tuple[UID, str]:
    """Read the meta information; return the transfer syntax and the SOP class."""
    values: dict[int, str] = {}
    for _ in range(_MOST_META):
        head = file.read(8)
        if len(head) < 8:
            break
        group, element, kind, length = struct.unpack("<HH2sH", head)
        if group != 2:
            file.seek(-8, os.SEEK_CUR)
            break
        if not kind.isalpha():  # written with implicit VR, against the standard
            (length,) = struct.unpack("<L", head[4:])
        elif kind in _LONG_LENGTH:
            (length,) = struct.unpack("<L", file.read(4).ljust(4, b"\xff"))
        if length > limits.DICOM_HEADER:
            raise Damaged("meta information without an end")
        value = file.read(length)
        values[element] = value[:64].decode("ascii", "replace").strip("\0 ")
    return UID(values.get(0x10, "")), values.get(0x02, "")


def _inflate(content: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(content, limits.INFLATED + 1)
    except zlib.error:
        raise Damaged("its compressed part cannot be inflated") from None
    if len(inflated) > limits.INFLATED:
        raise Damaged(f"it inflates to more than {limits.INFLATED // limits.MIB} MiB")
    if not inflater.eof:
        raise Damaged("its compressed part is cut off")
    return inflated


class _Counted:
    """A file object with limits on the size of the header and the number of reads."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._left = limits.DICOM_HEADER
        self._reads_left = _READS_PER_ELEMENT * (limits.DICOM_ELEMENTS + size // 2048)
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        there = max(self._size - self._file.tell(), 0)
        size = there if size < 0 else min(size, there)
        self._left -= size
        self._reads_left -= 1
        if self._reads_left < 0:
            raise Damaged("more elements before the pixels than it may have")
        if self._left < 0:
            raise Damaged(f"more than {limits.DICOM_HEADER // limits.MIB} MiB before the pixels")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        # pydicom seeks past values that it does not keep: a file that is cut off ends there.
        return self._file.seek(offset, whence)


def _find_pixels(
    file: BinaryIO, size: int, implicit: bool, little: bool
) -> tuple[Span | None, bool]:
    """Return the byte range of the value of PixelData, and whether its length is undefined."""
    order = "<" if little else ">"
    head = file.read(12)
    if len(head) < 8:
        return None, False
    group, element = struct.unpack(f"{order}HH", head[:4])
    if group << 16 | element != _PIXELS:
        return None, False
    at = file.tell() - len(head)
    if implicit or not head[4:6].isalpha():
        (length,), start = struct.unpack(f"{order}L", head[4:8]), at + 8
    elif head[4:6] in _LONG_LENGTH:
        if len(head) < 12:
            return None, False
        (length,), start = struct.unpack(f"{order}L", head[8:]), at + 12
    else:
        (length,), start = struct.unpack(f"{order}H", head[6:8]), at + 8
    there = max(size - start, 0)
    undefined = length == _UNDEFINED
    return (start, there if undefined else min(length, there)), undefined


def _walk_items(file: BinaryIO, pixels: Span, header: pydicom.Dataset) -> tuple[Span, ...]:
    """Return the items of encapsulated pixels, up to the first incomplete one."""
    most = 1 + min(_FRAGMENTS_PER_FRAME * number_of_frames(header), _MOST_FRAGMENTS)
    start, there = pixels
    end = start + there
    items: list[Span] = []
    at = start
    while at + 8 <= end:
        file.seek(at)
        group, element, length = struct.unpack("<HHL", file.read(8))
        tag = group << 16 | element
        if tag == _ITEMS_END or tag != _ITEM or at + 8 + length > end:
            break
        items.append((at + 8, length))
        if len(items) > most:
            raise Damaged("too many fragments of pixel data")
        at += 8 + length
    return tuple(items)


def _begins_image(file: BinaryIO, item: Span) -> bool:
    file.seek(item[0])
    return file.read(min(item[1], 4)).startswith(_IMAGE_STARTS)


def _read_table(file: BinaryIO, item: Span) -> tuple[int, ...]:
    offset, length = item
    if not 0 < length <= 4 * limits.FRAMES:
        return ()
    file.seek(offset)
    return struct.unpack(f"<{length // 4}L", file.read(length // 4 * 4))


def number_of_frames(header: pydicom.Dataset) -> int:
    """Return NumberOfFrames, 1 without one.

    Raises:
        Damaged: the number is not between 1 and the limit.
    """
    value: Any = header.get("NumberOfFrames")
    if value in (None, "", 0):
        return 1
    try:
        frames = int(value)
    except (TypeError, ValueError, OverflowError):
        raise Damaged("NumberOfFrames is not a number") from None
    if not 1 <= frames <= limits.FRAMES:
        raise Damaged(f"NumberOfFrames is {frames:.6g}, not 1 to {limits.FRAMES}")
    return frames


def unreadable(path: Path, damage: Damaged) -> InputError:
    """Return the error for a damaged file."""
    if str(damage).startswith("truncated"):
        return InputError(f"{path}: {damage}; copy the file again")
    return InputError(f"{path}: damaged DICOM file ({damage}); copy the file again")
