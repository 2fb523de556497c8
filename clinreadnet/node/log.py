"""The node's log: one line for each event on standard error, without patient data.

UIDs appear as the first 12 digits of their SHA-256. The logs and warnings of the libraries, which
repeat values of headers, are switched off.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import warnings
from datetime import UTC, datetime
from typing import Any

from clinreadnet.console import note
from clinreadnet.dicom.silence import LIBRARIES
from clinreadnet.errors import counted, one_line

HASH_DIGITS = 12

_WINDOW = 60.0  # seconds
_LINES = 20  # of one kind in a window


def hashed(*values: str) -> str:
    """Return the hexadecimal SHA-256 of several values."""
    return hashlib.sha256("\0".join(values).encode("utf-8", "surrogatepass")).hexdigest()


def quiet_libraries() -> None:
    """Switch off every log, warning and traceback that could repeat a header."""
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
    warnings.simplefilter("ignore")
    threading.excepthook = _in_thread


def _in_thread(args: Any) -> None:
    if args.exc_type is not SystemExit:
        log(f"a thread of an association ended with {args.exc_type.__name__}", kind="thread")


class _Limiter:
    """Counts lines by kind, so that refusals cannot fill the disk."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, int]] = {}

    def admit(self, kind: str, now: float) -> tuple[bool, int]:
        """Return whether a line may be written, and the number of lines omitted before it."""
        with self._lock:
            start, count = self._seen.get(kind, (now, 0))
            left_out = 0
            if now - start >= _WINDOW:
                left_out, start, count = max(count - _LINES, 0), now, 0
            self._seen[kind] = (start, count + 1)
            return count < _LINES, left_out


_limiter = _Limiter()


def log(text: str, *, kind: str | None = None) -> None:
    """Write one line with the time in UTC.

    Args:
        text: line without values of a header.
        kind: kind of the line, limited to 20 lines a minute; None for lines that need no limit.
    """
    if kind is not None:
        wanted, left_out = _limiter.admit(kind, time.monotonic())
        if left_out:
            note(f"{_time()} {counted(left_out, 'more line')} of this kind: {kind}")
        if not wanted:
            return
    note(f"{_time()} {one_line(text)}")


def _time() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
