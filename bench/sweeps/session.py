"""What a `Session` adds to a run: its inputs, a clock inside it, and what a row says of it."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from clinreadnet.runtime import Session


def session_facts(session: Session) -> dict[str, Any]:
    """Return what runs, without a path of this machine.

    Args:
        session: the one that is measured.
    """
    # Why a backend was refused may name a path: its name is enough.
    named = {"bundle": session.bundle.name, "refused": sorted(session.refused)}
    return session.describe() | named


def some_hu(dtype: str) -> np.ndarray:
    return np.random.default_rng(1).normal(40, 300, (1, 512, 512)).astype(dtype)


def surroundings(bundle: str) -> dict[str, Any]:
    """Return how busy the machine was: other load makes every number here larger."""
    return {
        "bundle": bundle,
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "niceness": os.nice(0) if hasattr(os, "nice") else None,
    }


class Timed:
    """A session of ONNX Runtime, and the seconds in its runs."""

    def __init__(self, bare: Any) -> None:
        self._bare = bare
        self.seconds: list[float] = []

    def run(self, *arguments: Any) -> Any:
        start = time.perf_counter()
        outputs = self._bare.run(*arguments)
        self.seconds.append(time.perf_counter() - start)
        return outputs
