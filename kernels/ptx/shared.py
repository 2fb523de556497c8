"""Shared memory of concurrent blocks, with race detection.

Accesses are tracked by granules, whose size is that of the program's narrowest access. The time of
a block advances at its barriers; the time of a warp also advances at ``bar.warp.sync``. Two
accesses to a granule, at least one of them a write, are ordered if time has advanced between them:
the time of the block for threads of different warps, the time of the warp for threads of the same
warp. Otherwise they are a race.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.kernels.ptx.errors import Misaligned, NotWaited, OutOfBounds, Race, Unwritten
from clinreadnet.kernels.ptx.memory import WORDS

WARP = 32


class SharedMemory:
    """Shared memory of some blocks.

    Args:
        size: bytes per block.
        blocks: number of blocks.
        threads: threads per block.
        granule: bytes of the narrowest access.
    """

    def __init__(self, size: int, blocks: int, threads: int, granule: int = 2):
        self.size = size
        self._granule = granule
        self._stride = -(-max(size, 16) // 16) * 16
        self._warps = threads // WARP
        granules = blocks * self._stride // granule
        self._data = np.full(blocks * self._stride, 0xFF, np.uint8)
        self._thread = np.arange(blocks * threads, dtype=np.int32)
        self._block = self._thread // threads
        self._warp = self._thread // WARP
        self.block_time = np.ones(blocks, np.int32)
        self.warp_time = np.ones(blocks * self._warps, np.int32)
        # Last write of each granule.
        self._writer = np.full(granules, -1, np.int32)
        self._written_block = np.zeros(granules, np.int32)
        self._written_warp = np.zeros(granules, np.int32)
        # Last read of each granule, and whether other threads have read it at the same time.
        self._reader = np.full(granules, -1, np.int32)
        self._read_block = np.zeros(granules, np.int32)
        self._read_warp = np.zeros(granules, np.int32)
        self._several_warps = np.zeros(granules, bool)
        self._several_threads = np.zeros(granules, bool)
        self._arriving = np.zeros(granules, bool)
        """Whether an asynchronous copy to the granule is pending."""
        self._in_use = np.zeros(granules, np.int16)
        """Number of asynchronous products that still read the granule."""
        self._unfenced = np.zeros(granules, bool)
        """Whether the last write of the granule lacks a proxy fence."""

    def load(
        self, threads: NDArray[np.int32], addresses: NDArray[np.int64], size: int
    ) -> NDArray[np.generic]:
        """Load a word of ``size`` bytes for each of ``threads`` at ``addresses`` of its block."""
        flat = self._flat(threads, addresses, size, "load")
        granules, threads = self._granules(flat, threads, size)
        self._check_state(granules)
        if self._after_write(granules, threads).any():
            raise Race(
                "reads shared memory that another thread has written, with no barrier between"
            )
        self._note_read(granules, threads)
        return self._data.view(WORDS[size])[flat // size]

    def store(
        self,
        threads: NDArray[np.int32],
        addresses: NDArray[np.int64],
        words: NDArray[np.generic],
        size: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Store a word of ``size`` bytes for each of ``threads``; return granules and owners."""
        flat = self._flat(threads, addresses, size, "store")
        granules, owners = self._granules(flat, threads, size)
        self._check_write(granules, owners)
        view: NDArray[Any] = self._data.view(WORDS[size])
        view[flat // size] = words
        # In Triton's code several threads can write the same value.
        if (view[flat // size].view(np.uint8) != words.view(np.uint8)).any():
            raise Race("threads write different values to the same bytes of shared memory at once")
        self._stamp(granules, owners)
        return granules, owners

    def copy(
        self,
        threads: NDArray[np.int32],
        addresses: NDArray[np.int64],
        words: NDArray[np.generic],
        size: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Begin an asynchronous copy of a word per thread; pass the result to `arrive`."""
        granules, owners = self.store(threads, addresses, words, size)
        self._arriving[granules] = True
        return granules, owners

    def arrive(self, granules: NDArray[np.int64], threads: NDArray[np.int32]) -> None:
        """End an asynchronous copy: record a write by the threads that started it."""
        self._arriving[granules] = False
        self._stamp(granules, threads)

    def read_matrix(
        self, blocks: NDArray[np.int32], addresses: NDArray[np.int64]
    ) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """Return 16-byte words [blocks, n] for an asynchronous product, and their granules."""
        first = (blocks * self._warps * WARP).astype(np.int32)
        threads = np.repeat(first, addresses.shape[1])
        flat = self._flat(threads, addresses.reshape(-1), 16, "load")
        granules, threads = self._granules(flat, threads, 16)
        self._check_state(granules)
        recent = self._written_block[granules] == self.block_time[self._block[threads]]
        if recent.any():
            raise Race("a warp-group product reads shared memory written since the last barrier")
        if self._unfenced[granules].any():
            raise NotWaited("no fence.proxy.async between a write and a warp-group product")
        self._in_use[granules] += 1
        return self._data.view(WORDS[16])[flat // 16].reshape(addresses.shape), granules

    def release(self, granules: NDArray[np.int64]) -> None:
        """End the reads of an asynchronous product."""
        self._in_use[granules] -= 1

    def fence(self) -> None:
        """Make writes visible to asynchronous products."""
        self._unfenced[:] = False

    def _flat(
        self, threads: NDArray[np.int32], addresses: NDArray[np.int64], size: int, verb: str
    ) -> NDArray[np.int64]:
        wrong = (addresses < 0) | (addresses + size > self.size)
        if wrong.any():
            place = int(addresses[wrong][0])
            raise OutOfBounds(f"{verb} of {size} bytes at {place} of {self.size} of shared memory")
        if (addresses % size).any():
            place = int(addresses[addresses % size != 0][0])
            raise Misaligned(f"{verb} of {size} bytes at {place} of shared memory")
        return addresses + self._block[threads] * np.int64(self._stride)

    def _granules(
        self, flat: NDArray[np.int64], threads: NDArray[np.int32], size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        count = size // self._granule
        if count == 1:
            return flat // size, threads
        granules = (flat // self._granule)[:, None] + np.arange(count)
        return granules.reshape(-1), np.repeat(threads, count)

    def _check_state(self, granules: NDArray[np.int64]) -> None:
        if (self._writer[granules] < 0).any():
            raise Unwritten("reads shared memory that nothing has written")
        if self._arriving[granules].any():
            raise NotWaited("reads what an asynchronous copy still writes")

    def _after_write(
        self, granules: NDArray[np.int64], threads: NDArray[np.int32]
    ) -> NDArray[np.bool_]:
        """Return whether another thread's last write is unordered."""
        writers = self._writer[granules]
        warp = self._warp[threads]
        same_warp = self._warp[writers] == warp
        now = np.where(same_warp, self.warp_time[warp], self.block_time[self._block[threads]])
        then = np.where(same_warp, self._written_warp[granules], self._written_block[granules])
        return (writers >= 0) & (writers != threads) & (now == then)

    def _check_write(self, granules: NDArray[np.int64], threads: NDArray[np.int32]) -> None:
        if self._arriving[granules].any():
            raise NotWaited("writes where an asynchronous copy still writes")
        if self._in_use[granules].any():
            raise NotWaited("writes what an asynchronous product still reads")
        if self._after_write(granules, threads).any():
            raise Race(
                "writes shared memory that another thread has written, with no barrier between"
            )
        if self._after_read(granules, threads).any():
            raise Race("writes shared memory that another thread reads, with no barrier between")

    def _note_read(self, granules: NDArray[np.int64], threads: NDArray[np.int32]) -> None:
        warp = self._warp[threads]
        block_now, warp_now = self.block_time[self._block[threads]], self.warp_time[warp]
        before = self._reader[granules]
        same_block_time = self._read_block[granules] == block_now
        other_warp = self._warp[before] != warp  # granules without reads have no time
        same_warp_time = same_block_time & (self._read_warp[granules] == warp_now)
        several_warps = same_block_time & (self._several_warps[granules] | other_warp)
        several_threads = same_warp_time & (self._several_threads[granules] | (before != threads))
        self._several_warps[granules] = several_warps
        self._several_threads[granules] = several_threads
        self._reader[granules] = threads
        self._read_block[granules] = block_now
        self._read_warp[granules] = warp_now
        # If several threads read a granule at once, the last is recorded.
        kept = self._reader[granules]
        apart = kept != threads
        if apart.any():
            self._several_threads[granules[apart]] = True
            self._several_warps[granules[apart & (self._warp[kept] != warp)]] = True

    def _after_read(
        self, granules: NDArray[np.int64], threads: NDArray[np.int32]
    ) -> NDArray[np.bool_]:
        """Return whether another thread's last read is unordered."""
        same_block_time = self._read_block[granules] == self.block_time[self._block[threads]]
        if not same_block_time.any():
            return same_block_time
        warp, reader = self._warp[threads], self._reader[granules]
        within = self._several_threads[granules] | (reader != threads)
        within &= self._read_warp[granules] == self.warp_time[warp]
        across = self._several_warps[granules] | (self._warp[reader] != warp)
        return same_block_time & (within | across)

    def _stamp(self, granules: NDArray[np.int64], threads: NDArray[np.int32]) -> None:
        self._writer[granules] = threads
        self._written_block[granules] = self.block_time[self._block[threads]]
        self._written_warp[granules] = self.warp_time[self._warp[threads]]
        self._unfenced[granules] = True
