"""Stages that a profiler shows by name: NVTX ranges of the domain "clinreadnet".

Nsight Systems and Nsight Compute read them. They need the package `nvtx` (extra `bench`); without
it a stage does nothing.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

DOMAIN = "clinreadnet"


def stage(name: str) -> AbstractContextManager[Any]:
    """Return a context that a profiler shows as a range.

    Args:
        name: of the stage, such as "run 4 slices".
    """
    annotate = _annotate()
    return contextlib.nullcontext() if annotate is None else annotate(name, domain=DOMAIN)


@functools.cache
def _annotate() -> Callable[..., AbstractContextManager[Any]] | None:
    try:
        import nvtx
    except ImportError:
        return None
    annotate: Callable[..., AbstractContextManager[Any]] = nvtx.annotate
    return annotate
