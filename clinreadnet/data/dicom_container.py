"""The parts of a DICOM file: its header, and where the bytes of each frame lie.

Nothing is taken at its word: a length is compared with the bytes that are there before anything is
allocated, and what is inflated is bounded (see `clinreadnet.limits`).
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import UID

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
_CLAIM = b"1.2.840.10008.5.1.4.1.1.2"  # begins the class of every CT image
_CLAIM_WITHIN = 4096
_PIXELS = 0x7FE00010
_AFTER_HEADER = (0x7FE00008, 0x7FE00009, _PIXELS)  # float, double and integer pixels
_ITEM, _ITEMS_END = 0xFFFEE000, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_LENGTH = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"}
_MOST_META = 64
_FRAGMENTS_PER_FRAME = 16
_READS_PER_ELEMENT = 2  # its head and its value, most of which are skipped


class NotDicom(Exception):
    """The file does not even claim to be DICOM."""


class Damaged(Exception):
    """The file claims to be DICOM and is damaged; the message says how."""


@dataclass(frozen=True)
class Container:
    """What is known of a file without its pixels.

    Attributes:
        syntax: its transfer syntax.
        media_class: the SOP class that its meta information names; empty without one.
        header: the data elements before the pixels that were asked for.
        pixels: where the value of PixelData lies, in the inflated file if it is deflated; None
            without one. Its length is at most what is there.
        pieces: the fragments of compressed pixels, in order; else empty.
        table: the offsets of the frames from the first fragment's item; empty without a table.
    """

    syntax: UID
    media_class: str
    header: pydicom.Dataset
    pixels: Span | None
    pieces: tuple[Span, ...] = ()
    table: tuple[int, ...] = ()

    def spans(self, frames: int, native_bytes: int | None) -> list[tuple[Span, ...]]:
        """Return where the bytes of each frame lie.

        Args:
            frames: number of frames.
            native_bytes: bytes of a frame that is not compressed; None for compressed ones.

        Raises:
            Damaged: they are not all there.
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
        starts = {piece[0] - self.pieces[0][0]: i for i, piece in enumerate(self.pieces)}
        if len(self.table) != frames or not set(self.table) <= set(starts):
            raise Damaged("compressed frames in several pieces, and no table of their offsets")
        first = [starts[offset] for offset in self.table]
        if first[0] != 0 or sorted(set(first)) != first:
            raise Damaged("a table of frames out of order")
        ends = [*first[1:], len(self.pieces)]
        return [self.pieces[a:b] for a, b in zip(first, ends, strict=True)]


def read_container(path: Path, tags: Sequence[int | str | tuple[int, int]]) -> Container:
    """Read the header of a file.

    Args:
        path: the file.
        tags: data elements to keep.

    Raises:
        NotDicom: there is no sign of DICOM in it.
        Damaged: it is damaged, or beyond a limit.
        InputError: it cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        _check_preamble(file)
        syntax, media_class = _read_meta(file)
        if not syntax:
            raise Damaged("no TransferSyntaxUID")
        source: BinaryIO = file
        if syntax == DEFLATED:
            source = io.BytesIO(_inflate(file.read()))
            size = len(source.getbuffer())
        try:
            implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
        except ValueError:
            raise Damaged("an unknown TransferSyntaxUID") from None
        header = read_dataset(
            _Counted(source, size),
            implicit,
            little,
            stop_when=lambda tag, vr, length: tag in _AFTER_HEADER,
            specific_tags=[Tag(tag) for tag in tags],
        )
        to_utf8(header)
        pixels, undefined = _find_pixels(source, size, implicit, little)
        items = _walk_items(source, pixels, header) if pixels and undefined else ()
        table = _read_table(source, items[0]) if items else ()
    return Container(syntax, media_class, header, pixels, items[1:], table)


def read_spans(path: Path, spans: Sequence[Span], *, deflated: bool) -> bytes:
    """Return the bytes of some spans, joined.

    Raises:
        Damaged: the file has changed, and they are not there any more.
        InputError: it cannot be read.
    """
    with open_regular(path) as file:
        source: BinaryIO = file
        if deflated:
            file.seek(_PREAMBLE)
            _read_meta(file)
            source = io.BytesIO(_inflate(file.read()))
        parts = []
        for offset, length in spans:
            source.seek(offset)
            parts.append(source.read(length))
            if len(parts[-1]) != length:
                raise Damaged("it is shorter than a moment ago")
    return b"".join(parts)


def _check_preamble(file: BinaryIO) -> None:
    start = file.read(_PREAMBLE)
    if start[128:] == b"DICM":
        return
    if _CLAIM in start + file.read(_CLAIM_WITHIN):
        raise Damaged("no DICM before it")
    raise NotDicom


def _read_meta(file: BinaryIO) -> tuple[UID, str]:
    """Read the meta information; return the transfer syntax and the SOP class."""
    found: dict[int, str] = {}
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
        found[element] = value[:64].decode("ascii", "replace").strip("\0 ")
    return UID(found.get(0x10, "")), found.get(0x02, "")


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
    """A file that gives no more than it has, and not more of a header than is allowed."""

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
    """Return where the value of PixelData lies, and whether its length is undefined."""
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
    """Return the items of encapsulated pixels; a cut one is left out with all after it."""
    most = 1 + _FRAGMENTS_PER_FRAME * number_of_frames(header)
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
            raise Damaged("more pieces of pixel data than frames")
        at += 8 + length
    return tuple(items)


def _read_table(file: BinaryIO, item: Span) -> tuple[int, ...]:
    offset, length = item
    if not 0 < length <= 4 * limits.FRAMES:
        return ()
    file.seek(offset)
    return struct.unpack(f"<{length // 4}L", file.read(length // 4 * 4))


def number_of_frames(header: pydicom.Dataset) -> int:
    """Return NumberOfFrames, 1 without one.

    Raises:
        Damaged: it is not between 1 and the limit.
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
