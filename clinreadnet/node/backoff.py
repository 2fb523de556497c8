"""How long to wait before the next try."""

from __future__ import annotations

import random

LONGEST = 300.0
"""Seconds between two tries to send."""


def pause(attempts: int, most: float = 3600.0) -> float:
    """Return the seconds after a number of failed attempts: 0, 2, 4, 8 ... at most ``most``."""
    return min(2.0 ** min(attempts, 30), most) if attempts else 0.0


def jittered(attempts: int) -> float:
    """Return the same to send again, 20 % more or less, so that nodes do not return together."""
    return pause(attempts, LONGEST) * random.uniform(0.8, 1.2)
