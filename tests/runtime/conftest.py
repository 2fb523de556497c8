"""The fixture of a profiler."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from clinreadnet.runtime import profiling


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the ranges that a profiler shows: "+ name" at the start, "- name" at the end."""
    events: list[str] = []

    @contextmanager
    def annotate(name: str, *, domain: str) -> Iterator[None]:
        assert domain == "clinreadnet"
        events.append(f"+ {name}")
        yield
        events.append(f"- {name}")

    monkeypatch.setitem(sys.modules, "nvtx", SimpleNamespace(annotate=annotate))
    profiling.nvtx_annotate.cache_clear()
    yield events
    profiling.nvtx_annotate.cache_clear()
