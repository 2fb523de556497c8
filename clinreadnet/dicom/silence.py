"""Keep what the libraries say about a header from the user."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARIES = ("pynetdicom", "pydicom", "highdicom")
"""Their logs and warnings repeat values of headers."""


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Switch off their logs and every warning, until the block ends."""
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
