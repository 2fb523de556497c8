"""The quota of the spool: the bytes and objects in it, and their limits."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from clinreadnet import limits


class Full(Exception):
    """There is no space for another object."""


class Quota:
    """Counts the bytes and objects in the spool. Any number of threads may use it.

    Attributes:
        bytes: total size of the objects in the spool.
        objects: number of objects in the spool.
    """

    def __init__(
        self, folder: Path, most_bytes: int, most_objects: int, waiting: int, objects: int
    ) -> None:
        """Start with ``waiting`` bytes in ``objects`` objects."""
        self.bytes = waiting
        self.objects = objects
        self._folder = folder
        self._most_bytes = most_bytes
        self._most_objects = most_objects
        self._mutex = threading.Lock()

    def take(self, size: int) -> None:
        """Reserve space for an object of ``size`` bytes.

        Raises:
            Full: the object exceeds the limits, or the disk would be nearly full.
        """
        free = shutil.disk_usage(self._folder).free
        with self._mutex:
            if (
                self.bytes + size > self._most_bytes
                or self.objects >= self._most_objects
                or free < size + limits.SPOOL_FREE
            ):
                raise Full
            self.bytes += size
            self.objects += 1

    def add(self, sizes: Sequence[int]) -> None:
        """Count objects that the node created itself, whether or not they fit."""
        with self._mutex:
            self.bytes += sum(sizes)
            self.objects += len(sizes)

    def give(self, size: int) -> None:
        """Release the space of an object."""
        with self._mutex:
            self.bytes -= size
            self.objects -= 1
