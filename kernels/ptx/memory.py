"""Global memory with exact bounds, read-only inputs and an uninitialised output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.kernels.ptx.errors import Misaligned, OutOfBounds, Race, Unwritten

BASE = 0x7F20_0000_0000
"""Address of the first allocation, which needs 64-bit arithmetic."""
GAP = 4096
"""Unallocated bytes between two allocations."""

WORDS: dict[int, type[np.generic]] = {2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}
"""NumPy types for accesses by their size in bytes."""


@dataclass
class Allocation:
    """A tensor in global memory."""

    name: str
    start: int
    """Offset from ``BASE``, a multiple of the promised alignment but not of twice that."""
    size: int
    output: bool


class GlobalMemory:
    """Tensors of a launch.

    Args:
        alignment: alignment of addresses in bytes.
    """

    def __init__(self, alignment: int = 16):
        self._alignment = alignment
        self._data = np.zeros(0, np.uint8)
        self._written = np.zeros(0, bool)
        self.allocations: list[Allocation] = []
        self._starts = self._ends = np.zeros(0, np.int64)

    def put(self, name: str, array: NDArray[np.generic], *, output: bool = False) -> int:
        """Allocate a copy of ``array``; return its address. An ``output`` is uninitialised."""
        data = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        end = len(self._data)
        start = -(-(end + GAP) // (2 * self._alignment)) * 2 * self._alignment + self._alignment
        room = np.full(-(-(start + data.size - end) // 16) * 16, 0xFF, np.uint8)
        self._data = np.concatenate([self._data, room])
        self._data[start : start + data.size] = 0xFF if output else data
        self._written = np.concatenate([self._written, np.zeros(room.size, bool)])
        self.allocations.append(Allocation(name, start, data.size, output))
        self._starts = np.array([allocation.start for allocation in self.allocations])
        self._ends = np.array(
            [allocation.start + allocation.size for allocation in self.allocations]
        )
        return BASE + start

    def fetch(self, name: str, like: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return a copy of the tensor ``name``, with the type and shape of ``like``."""
        return self._data[self._bytes_of(name)].copy().view(like.dtype).reshape(like.shape)

    def unwritten(self, name: str) -> int:
        """Return the number of uninitialised bytes of the output ``name``."""
        return int((~self._written[self._bytes_of(name)]).sum())

    def _bytes_of(self, name: str) -> slice:
        (allocation,) = (allocation for allocation in self.allocations if allocation.name == name)
        return slice(allocation.start, allocation.start + allocation.size)

    def load(self, addresses: NDArray[np.int64], size: int) -> NDArray[np.generic]:
        """Load words of ``size`` bytes at ``addresses``, one for each active thread."""
        offsets, touched = self._offsets(addresses, size, "load")
        for allocation in touched:
            if allocation.output:
                raise Unwritten(f"reads {allocation.name}, which the kernel is to write")
        return self._data.view(WORDS[size])[offsets // size]

    def store(self, addresses: NDArray[np.int64], words: NDArray[np.generic], size: int) -> None:
        """Store a word of ``size`` bytes for each active thread."""
        offsets, touched = self._offsets(addresses, size, "store")
        for allocation in touched:
            if not allocation.output:
                raise OutOfBounds(f"writes {allocation.name}, which is an input")
        view: NDArray[Any] = self._data.view(WORDS[size])
        places = offsets // size
        before = view[places].view(np.uint8)
        view[places] = words
        new = words.view(np.uint8)
        bytes_of = (offsets[:, None] + np.arange(size)).reshape(-1)
        again = self._written[bytes_of]
        if (again & (before != new)).any() or (view[places].view(np.uint8) != new).any():
            raise Race("two threads write different values to the same bytes of an output")
        self._written[bytes_of] = True

    def _offsets(
        self, addresses: NDArray[np.int64], size: int, verb: str
    ) -> tuple[NDArray[np.int64], list[Allocation]]:
        """Return the offsets of an access from ``BASE``, and the allocations that it touches."""
        offsets = addresses - BASE
        if (offsets % size).any():
            raise Misaligned(f"{verb} of {size} bytes at {hex(addresses[offsets % size != 0][0])}")
        owners = np.searchsorted(self._starts, offsets, side="right") - 1
        wrong = (owners < 0) | (offsets + size > self._ends[owners])
        if wrong.any():
            raise OutOfBounds(f"{verb} of {size} bytes {self._place(int(offsets[wrong][0]))}")
        return offsets, [self.allocations[i] for i in np.unique(owners)]

    def _place(self, offset: int) -> str:
        nearest = min(
            self.allocations,
            key=lambda allocation: abs(
                offset - min(max(offset, allocation.start), allocation.start + allocation.size)
            ),
        )
        return f"at byte {offset - nearest.start} of {nearest.name}, which has {nearest.size}"
