"""How much waits in the spool, and how much may."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from clinreadnet import limits


class Full(Exception):
    """There is no room for another object."""


class Room:
    """Counts the bytes and the objects that wait. Any number of threads may use it.

    Attributes:
        bytes: that wait.
        objects: that wait.
    """

    def __init__(
        self, folder: Path, most_bytes: int, most_objects: int, waiting: int, objects: int
    ) -> None:
        """Start from what waits already: its bytes, and the number of objects."""
        self.bytes = waiting
        self.objects = objects
        self._folder = folder
        self._most_bytes = most_bytes
        self._most_objects = most_objects
        self._mutex = threading.Lock()

    def take(self, size: int) -> None:
        """Take the room of an object of some bytes.

        Raises:
            Full: it does not fit into the limits, or the disk would be nearly full.
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
        """Count objects that the node made itself, whether or not they fit."""
        with self._mutex:
            self.bytes += sum(sizes)
            self.objects += len(sizes)

    def give(self, size: int) -> None:
        """Give the room of an object back."""
        with self._mutex:
            self.bytes -= size
            self.objects -= 1
