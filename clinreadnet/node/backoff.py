"""Pauses between attempts."""

from __future__ import annotations

import random

LONGEST = 300.0
"""Longest pause between two attempts to send, in seconds."""


def pause(attempts: int, most: float = 3600.0) -> float:
    """Return the seconds after a number of failed attempts: 0, 2, 4, 8 ... at most ``most``."""
    return min(2.0 ** min(attempts, 30), most) if attempts else 0.0


def jittered(attempts: int) -> float:
    """Return the pause before sending again, with jitter so that nodes do not retry together."""
    return pause(attempts, LONGEST) * random.uniform(0.8, 1.2)
