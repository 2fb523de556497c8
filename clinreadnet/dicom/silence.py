"""Silence logs and warnings of libraries, which can repeat header values."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARIES = ("pynetdicom", "pydicom", "highdicom")
"""Libraries whose logs and warnings can repeat header values."""


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Disable the logs of these libraries and all warnings inside the block."""
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
