"""Data for timing the overhead of a `Session`."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from clinreadnet.runtime import Session


def session_facts(session: Session) -> dict[str, Any]:
    """Return facts about a session, without file paths.

    Args:
        session: session that is measured.
    """
    # Reasons can contain paths, so only names of refused backends are kept.
    named = {"bundle": session.bundle.name, "refused": sorted(session.refused)}
    return session.describe() | named


def some_hu(dtype: str, n: int = 1) -> np.ndarray:
    """Return n noisy discs of water in air, [n, 512, 512] HU."""
    y, x = np.indices((512, 512)) - 255.5
    disc = np.where(np.hypot(x, y) < 180, 40, -1000)
    return (disc + np.random.default_rng(1).normal(0, 60, (n, 512, 512))).astype(dtype)


def surroundings(bundle: str) -> dict[str, Any]:
    """Return the load of the machine."""
    return {
        "bundle": bundle,
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "niceness": os.nice(0) if hasattr(os, "nice") else None,
    }


class Timed:
    """A session of ONNX Runtime that records the seconds of its runs."""

    def __init__(self, bare: Any) -> None:
        self._bare = bare
        self.seconds: list[float] = []

    def run(self, *arguments: Any) -> Any:
        start = time.perf_counter()
        outputs = self._bare.run(*arguments)
        self.seconds.append(time.perf_counter() - start)
        return outputs
