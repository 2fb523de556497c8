"""Read MetaImage files (``.mha``, ``.mhd``), the input of the challenge's container.

A text header of ``Key = value`` lines ends with ``ElementDataFile``; the voxels follow, plain or
zlib-compressed, x fastest. ``HeaderSize`` bytes at the start of the file with the voxels are
skipped; -1 means that the voxels are the last bytes of the file. Only stacks of slices are
supported: one channel, 2 or 3 axes. Slices are read one at a time. A compressed stack is a single
block that is inflated only as far as needed.
"""

from __future__ import annotations

import math
import os
import re
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet import limits
from clinreadnet.data.npy import hu_dtype
from clinreadnet.errors import InputError
from clinreadnet.files import open_regular

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# Header values that an error message may quote. Other values could be a patient's name.
_OTHER_TYPES = frozenset(
    "MET_NONE MET_ASCII_CHAR MET_STRING "
    "MET_CHAR_ARRAY MET_UCHAR_ARRAY MET_SHORT_ARRAY MET_USHORT_ARRAY MET_INT_ARRAY "
    "MET_UINT_ARRAY MET_FLOAT_ARRAY MET_DOUBLE_ARRAY MET_FLOAT_MATRIX MET_OTHER".split()
)
_SIZE = re.compile(r"[0-9]{1,10}")
_BLOCK = 2**20


@dataclass(frozen=True)
class Stack:
    """A checked MetaImage header.

    Attributes:
        path: the file.
        shape: slices, rows, columns.
        dtype: type of the stored values.
        source: file that contains the values.
        offset: byte offset of the values in ``source``.
        compressed: whether the values are one zlib block.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    source: Path
    offset: int
    compressed: bool

    @property
    def slice_bytes(self) -> int:
        """Bytes of one slice."""
        return self.shape[1] * self.shape[2] * self.dtype.itemsize


def open_metaimage(path: Path) -> Stack:
    """Read a header and check that the file is large enough for its values.

    Raises:
        InputError: the file is not a MetaImage file, its kind is not supported, its data file is
            not beside it, or the data is truncated.
    """
    header, at = read_metaimage_header(path)
    shape = metaimage_shape(header, path)
    source, offset = path, at
    if header["ElementDataFile"].upper() != "LOCAL":
        source, offset = _data_file(path, header["ElementDataFile"]), 0
    big = header.get("BinaryDataByteOrderMSB", header.get("ElementByteOrderMSB", "False"))
    dtype = np.dtype((">" if _is_true(big) else "<") + _TYPES[header["ElementType"]])
    compressed = _is_true(header.get("CompressedData", "False"))
    size = math.prod(shape) * dtype.itemsize
    skipped = header.get("HeaderSize", "0")
    with open_regular(source) as file:
        there = os.fstat(file.fileno()).st_size
    if skipped == "-1" and not compressed:
        offset = max(offset, there - size)
    elif not _SIZE.fullmatch(skipped):
        raise InputError(
            f"{path}: its HeaderSize does not match its data; write it again without HeaderSize"
        )
    offset = int(skipped) if _SIZE.fullmatch(skipped) and int(skipped) else offset
    there = max(there - offset, 0)
    if size > limits.DEFLATE_RATIO * there if compressed else size != there:
        raise InputError(
            f"{path}: {there} bytes of pixels or more, but its header promises {size} and holds "
            f"{header['ElementType']}; copy it again"
        )
    return Stack(path, shape, dtype, source, offset, compressed)


def read_metaimage_header(path: Path) -> tuple[dict[str, str], int]:
    """Return the header's entries and the offset of its end.

    Raises:
        InputError: the file cannot be read, is not a MetaImage file, or its kind is not supported.
    """
    with open_regular(path) as file:
        start = file.read(limits.METAIMAGE_HEADER)
    header: dict[str, str] = {}
    at = 0
    while "ElementDataFile" not in header:
        end = start.find(b"\n", at)
        line = start[at : max(end, at)].decode("latin-1")
        key, *value = re.split("[=:]", line, maxsplit=1)
        if end < 0 or (line.strip() and not value):
            raise InputError(f"{path}: not a MetaImage file; write the stack again")
        if value:
            header[key.strip()] = value[0].strip()
        at = end + 1
    kind, channels = header.get("ElementType"), header.get("ElementNumberOfChannels", "1")
    if kind not in _TYPES or channels != "1":
        named = kind if kind in _TYPES or kind in _OTHER_TYPES else "another ElementType"
        raise InputError(
            f"{path}: holds {named if kind else 'no ElementType'}, "
            f"{channels if _SIZE.fullmatch(channels) else 'several'} to a pixel; "
            "write one number to a pixel"
        )
    if not _is_true(header.get("BinaryData", "True")):
        raise InputError(f"{path}: its numbers are written as text; write them in binary")
    return header, at


def _is_true(word: str) -> bool:
    return word[:1] in ("T", "t", "1")


def metaimage_shape(header: dict[str, str], path: Path) -> tuple[int, int, int]:
    """Return the slices, rows and columns of a header.

    Raises:
        InputError: ``DimSize`` does not have two or three sizes.
    """
    words = header.get("DimSize", "").split()
    sizes = [int(word) for word in words if _SIZE.fullmatch(word)]
    if len(sizes) != len(words) or len(sizes) not in (2, 3) or min(sizes) < 1:
        raise InputError(
            f"{path}: its DimSize is not two or three sizes; write a stack of slices, 512 512 N"
        )
    columns, rows, count = (*sizes, 1)[:3]
    return count, rows, columns


class StackReader:
    """Reads the slices of a stack. Reading in order inflates each byte once.

    A reader is thread-safe. An unpickled copy starts from the beginning.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._lock = threading.Lock()
        self._inflater: _Inflater | None = None

    def __reduce__(self) -> tuple[type[StackReader], tuple[Stack]]:
        """Pickle only the stack."""
        return StackReader, (self.stack,)

    def read(self, number: int) -> NDArray[np.int16 | np.float32]:
        """Read one slice.

        If all its values are floats in 0...1, they are encoded like the challenge's images.
        Otherwise they are Hounsfield units.

        Args:
            number: index of the slice, from 0.

        Returns:
            [rows, columns] Hounsfield units: int16 if the stack holds int8 or int16, else float32.

        Raises:
            InputError: the data is damaged or truncated.
        """
        from clinreadnet.data.tif import TOLERANCE, decode  # imports tifffile, which is slow

        stack = self.stack
        with self._lock:
            content = self._inflate(number) if stack.compressed else self._plain(number)
        with np.errstate(over="ignore"):  # becomes infinity, which the caller refuses
            stored = np.frombuffer(content, stack.dtype).reshape(stack.shape[1:])
            image: NDArray[Any] = stored.astype(hu_dtype(stack.dtype))
        if stack.dtype.kind == "f" and image.min() >= -TOLERANCE and image.max() <= 1 + TOLERANCE:
            return decode(np.clip(image, 0, 1))
        return image

    def _plain(self, number: int) -> bytes:
        size = self.stack.slice_bytes
        with open_regular(self.stack.source) as file:
            file.seek(self.stack.offset + number * size)
            content = file.read(size)
        if len(content) != size:
            raise _wrong_size(self.stack.path, number * size + len(content), (number + 1) * size)
        return content

    def _inflate(self, number: int) -> bytes:
        stack = self.stack
        if self._inflater is None or self._inflater.slices > number:
            self._inflater = _Inflater(stack)
        content = b""
        while self._inflater.slices <= number:
            content = self._inflater.next_slice()
        if number == stack.shape[0] - 1:
            self._inflater.check_end()
            self._inflater = None
        return content


class _Inflater:
    """Inflates a stack from its start, a slice at a time. It keeps no file open."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._place = stack.offset
        self._inflate = zlib.decompressobj()
        self._waiting = b""
        self.slices = 0

    def next_slice(self) -> bytes:
        size = self._stack.slice_bytes
        content = bytearray()
        while len(content) < size:
            block = self._more(size - len(content))
            if not block:
                made = self.slices * size + len(content)
                raise _wrong_size(self._stack.path, made, self._stack.shape[0] * size)
            content += block
        self.slices += 1
        return bytes(content)

    def check_end(self) -> None:
        if self._more(1):
            size = self.slices * self._stack.slice_bytes
            raise _wrong_size(self._stack.path, size + 1, size)

    def _read(self) -> bytes:
        with open_regular(self._stack.source) as file:
            file.seek(self._place)
            block = file.read(_BLOCK)
        self._place += len(block)
        return block

    def _more(self, size: int) -> bytes:
        """Return up to ``size`` bytes, and at least one unless the block has ended."""
        while not self._inflate.eof:
            block = self._waiting or self._read()
            try:
                made = self._inflate.decompress(block, size)
            except zlib.error:
                raise InputError(
                    f"{self._stack.path}: damaged, its pixels cannot be inflated; copy it again"
                ) from None
            self._waiting = self._inflate.unconsumed_tail
            if made or not block:
                return made
        return b""


def _data_file(path: Path, name: str) -> Path:
    """Return the data file of a header, which must lie beside it."""
    expected = path.with_suffix(".raw").name
    shown = name if name == expected else "another name"
    # A folder or a pattern in the name, and a link that leaves the folder, read other files.
    if Path(name).name != name or name in ("", ".", "..", "LIST") or "%" in name or "\\" in name:
        raise InputError(
            f"{path}: its ElementDataFile is not the name of a file beside it; "
            f"name it {expected} and write it beside the header"
        )
    source = path.parent / name
    if not os.path.lexists(source):
        raise InputError(f"{path}: its data file {shown} is not beside it; copy it there")
    folder = Path(os.path.realpath(path.parent))
    if not Path(os.path.realpath(source)).is_relative_to(folder):
        raise InputError(f"{path}: its data file is a link that leaves the folder; copy it there")
    return source


def _wrong_size(path: Path, there: int, size: int) -> InputError:
    return InputError(
        f"{path}: {there} bytes of pixels or more, but its header promises {size}; copy it again"
    )
