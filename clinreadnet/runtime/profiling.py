"""Named stages for profilers: NVTX ranges of the domain "clinreadnet".

Nsight Systems and Nsight Compute show them. They need the package `nvtx` (extra `bench`). Without
it, a stage does nothing.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

DOMAIN = "clinreadnet"


def stage(name: str) -> AbstractContextManager[Any]:
    """Return a context manager that profilers show as a range.

    Args:
        name: name of the stage, such as "run 4 slices".
    """
    annotate = nvtx_annotate()
    return contextlib.nullcontext() if annotate is None else annotate(name, domain=DOMAIN)


@functools.cache
def nvtx_annotate() -> Callable[..., AbstractContextManager[Any]] | None:
    """Return `nvtx.annotate`, or None if nvtx is not installed. The answer is cached."""
    try:
        import nvtx
    except ImportError:
        return None
    annotate: Callable[..., AbstractContextManager[Any]] = nvtx.annotate
    return annotate
