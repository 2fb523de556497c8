"""The processor of this machine: its name, its count, and whether it has 8-bit products."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
_BYTE_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}
"""Flags of the instructions for sums of 8-bit products, on x86 and on ARM."""


def cpu_name() -> str:
    """Return the name of the processor."""
    return (_cpu_info("model name") or [platform.processor()])[0] or "unknown processor"


def processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def multiplies_bytes() -> bool | None:
    """Return whether the processor has instructions for 8-bit products; None if unknown."""
    flags = _cpu_info("flags") or _cpu_info("Features")
    return bool(_BYTE_PRODUCTS & set(flags[0].split())) if flags else None


def _cpu_info(key: str) -> list[str]:
    """Return the values of a key in Linux's list of processors; an empty list elsewhere."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    pairs = [line.partition(":") for line in lines]
    return [value.strip() for name, _, value in pairs if name.strip() == key]
