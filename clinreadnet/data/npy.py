"""Read NumPy's `.npy` and `.npz` files as untrusted input.

`numpy.lib.format` parses the headers and evaluates no code. The shape is compared with the size of
the file before memory is allocated. Members of an archive are unpacked only to the size in their
header.
"""

from __future__ import annotations

import math
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format
from numpy.typing import NDArray

from clinreadnet import limits
from clinreadnet.errors import InputError
from clinreadnet.files import open_regular

_READERS = {(1, 0): format.read_array_header_1_0, (2, 0): format.read_array_header_2_0}
_DAMAGED = (
    *(ArithmeticError, LookupError, MemoryError, RecursionError, SyntaxError, TypeError),
    *(ValueError, tokenize.TokenError),
)
"""Exceptions that NumPy raises for a damaged header."""
_LARGEST_NUMBER, _LONGEST_TEXT = 8, 4 * 9999
"""Bytes of an element."""
_LONGEST_AXIS = 10**15
_ENCRYPTED = 1
# The record at the end of a zip archive, and the one before it in a long one.
_ARCHIVE_END, _ARCHIVE_MARK = 22, b"PK\x05\x06"
_LONG_ARCHIVE_END, _LONG_ARCHIVE_MARK = 20, b"PK\x06\x07"
_LONGEST_COMMENT = 2**16


class NotAnArray(Exception):
    """The bytes are not a valid array; the message gives the reason."""


@dataclass(frozen=True)
class ArrayHeader:
    """Header of an array.

    Attributes:
        dtype: type of the elements.
        columns_first: whether the first axis varies fastest.
        shape: shape of the array.
        offset: byte offset of the first element.
    """

    dtype: np.dtype[Any]
    columns_first: bool
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Size of the elements in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_array_header(file: IO[bytes], *, text: bool = False) -> ArrayHeader:
    """Read the header at the start of a file or an archive's member.

    Args:
        file: positioned at the start.
        text: accept arrays of text instead of numbers.

    Raises:
        NotAnArray: the header is invalid, or the elements are not plain numbers.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            read = _READERS[format.read_magic(file)]
            shape, columns_first, dtype = read(file, max_header_size=limits.NPY_HEADER)
    except _DAMAGED as error:
        raise NotAnArray(f"its header is damaged, {type(error).__name__}") from None
    kinds, largest = ("U", _LONGEST_TEXT) if text else ("iuf", _LARGEST_NUMBER)
    if dtype.kind not in kinds or dtype.itemsize > largest:
        raise NotAnArray("holds no text" if text else "holds no numbers")
    if not all(type(size) is int and 0 <= size < _LONGEST_AXIS for size in shape):
        raise NotAnArray("its header is damaged")
    return ArrayHeader(dtype, columns_first, shape, file.tell())


def open_array(path: Path) -> ArrayHeader:
    """Read the header of an `.npy` file and check that the file is complete.

    Raises:
        NotAnArray: the file is not an `.npy` file or is truncated.
        InputError: it cannot be read.
    """
    with open_regular(path) as file:
        header = read_array_header(file)
        there = os.fstat(file.fileno()).st_size - header.offset
    if there < header.size:
        raise NotAnArray(f"truncated, {max(there, 0)} of {header.size} bytes are there")
    return header


def hu_dtype(stored: np.dtype[Any]) -> np.dtype[Any]:
    """Return int16 for Hounsfield units that are stored as int8 or int16, else float32."""
    return np.dtype(np.int16 if stored.kind == "i" and stored.itemsize <= 2 else np.float32)


def read_slice(path: Path, header: ArrayHeader, number: int | None) -> NDArray[Any]:
    """Return one slice of a stack [n, rows, columns], or the whole of [rows, columns].

    Args:
        path: the file.
        header: from `open_array`.
        number: index of the slice, from 0; None for an array of one slice.

    Raises:
        InputError: the file has changed since its header was read.
    """
    *stack, rows, columns = header.shape
    slices = stack[0] if stack else 1
    index = number or 0
    item = header.dtype.itemsize
    with open_regular(path) as file:
        if read_array_header(file) != header:
            raise InputError(f"{path}: changed while it was read; start again")
        if not header.columns_first:
            size = rows * columns * item
            content = _exactly(file, header.offset + index * size, size, path)
            return np.frombuffer(content, header.dtype).reshape(rows, columns)
        # In column-major order, the values of a pixel in all slices are adjacent.
        column_bytes = slices * rows * item
        whole = np.empty((rows, columns), header.dtype)
        for column in range(columns):
            at = header.offset + column * column_bytes
            content = _exactly(file, at, column_bytes, path)
            whole[:, column] = np.frombuffer(content, header.dtype)[index::slices]
        return whole


def _exactly(file: BinaryIO, offset: int, size: int, path: Path) -> bytes:
    file.seek(offset)
    content = file.read(size)
    if len(content) != size:
        raise InputError(f"{path}: changed while it was read; start again")
    return content


@dataclass(frozen=True)
class Wanted:
    """An array that an archive must contain.

    Attributes:
        name: name in the archive, without ``.npy``.
        shape: expected sizes; None for a first axis of any length.
        kinds: accepted values of ``dtype.kind``: "i", "u", "f", or "U".
        most: largest length of such a first axis.
    """

    name: str
    shape: tuple[int | None, ...]
    kinds: str = "iuf"
    most: int = 0


def has_member(file: IO[bytes], *names: str) -> bool:
    """Return whether an `.npz` archive contains any of the named arrays.

    Raises:
        NotAnArray: the file is not an archive.
    """
    with _archive(file) as archive:
        return any(f"{name}.npy" in archive.namelist() for name in names)


def read_members(
    file: IO[bytes], wanted: Sequence[Wanted], first: int | None = None
) -> dict[str, NDArray[Any]]:
    """Read arrays from an `.npz` archive. Other members are not read.

    Args:
        file: the archive.
        wanted: arrays to read.
        first: number of rows of each array to unpack; default all.

    Raises:
        NotAnArray: the file is not an archive, or a member is missing, damaged or has another
            shape.
    """
    with _archive(file) as archive:
        return {member.name: _read_member(archive, member, first) for member in wanted}


@contextmanager
def _archive(file: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """Open an archive; exceptions of zipfile inside the block become `NotAnArray`."""
    try:
        _check_index(file)
        with zipfile.ZipFile(file) as archive:
            yield archive
    except NotAnArray:
        raise
    # zipfile raises many types, and its messages may hold bytes of the file.
    except (ArithmeticError, EOFError, LookupError, OSError, RuntimeError, ValueError) as error:
        raise NotAnArray(f"a damaged archive, {type(error).__name__}") from None
    except (NotImplementedError, struct.error, zipfile.BadZipFile, zlib.error):
        raise NotAnArray("a damaged archive") from None


def _check_index(file: IO[bytes]) -> None:
    """Check the size of the list of members: zipfile always reads all of it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _ARCHIVE_END - _LONGEST_COMMENT - _LONG_ARCHIVE_END, 0))
    end = file.read()
    file.seek(0)
    # Search where zipfile does: at the end of the file, otherwise the last record.
    at = len(end) - _ARCHIVE_END
    if end[at : at + 4] != _ARCHIVE_MARK:
        at = end.rfind(_ARCHIVE_MARK)
    if at < 0 or len(end) - at < _ARCHIVE_END:
        return  # not an archive; zipfile raises the error
    (index,) = struct.unpack("<L", end[at + 12 : at + 16])
    long_form = end[max(at - _LONG_ARCHIVE_END, 0) : at].startswith(_LONG_ARCHIVE_MARK)
    if index > limits.ARCHIVE_INDEX or long_form:
        raise NotAnArray("an archive with more members than it may have")


def _read_member(archive: zipfile.ZipFile, wanted: Wanted, first: int | None) -> NDArray[Any]:
    try:
        info = archive.getinfo(f"{wanted.name}.npy")
    except KeyError:
        raise NotAnArray(f"{wanted.name} is missing") from None
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotAnArray(f"{wanted.name} is compressed by another method than deflate")
    if info.flag_bits & _ENCRYPTED:
        raise NotAnArray(f"{wanted.name} is encrypted")
    with archive.open(info) as member:
        try:
            header = read_array_header(member, text=wanted.kinds == "U")
        except NotAnArray:
            raise NotAnArray(f"{wanted.name} holds no plain numbers") from None
        if header.columns_first or header.dtype.kind not in wanted.kinds:
            raise NotAnArray(f"{wanted.name} holds no plain numbers")
        if not _fits(header.shape, wanted):
            raise NotAnArray(
                f"{wanted.name} has shape {list(header.shape)}, expected "
                f"{['any' if size is None else size for size in wanted.shape]}"
            )
        if header.size > info.compress_size * limits.DEFLATE_RATIO:
            raise NotAnArray(f"{wanted.name} is cut off")
        shape = header.shape if first is None else (min(first, header.shape[0]), *header.shape[1:])
        size = math.prod(shape) * header.dtype.itemsize
        content = member.read(size)
    if len(content) != size:
        raise NotAnArray(f"{wanted.name} is cut off")
    return np.frombuffer(content, header.dtype).reshape(shape)


def _fits(shape: tuple[int, ...], wanted: Wanted) -> bool:
    return len(shape) == len(wanted.shape) and all(
        size == expected if expected is not None else size <= wanted.most
        for size, expected in zip(shape, wanted.shape, strict=True)
    )
