"""The processor of this machine: its name, its count, and whether it has 8-bit products."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""Control groups of this process and of the machine (cgroups(7))."""
_BYTE_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}
"""Flags of the instructions for sums of 8-bit products, on x86 and on ARM."""


def cpu_name() -> str:
    """Return the name of the processor."""
    return (_cpu_info("model name") or [platform.processor()])[0] or "unknown processor"


def processors() -> int:
    """Return the number of processors that this process may use.

    A share of processors, such as that of ``docker run --cpus 1.5``, is rounded up.
    """
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, math.ceil(min((count, *_quotas()))))


def multiplies_bytes() -> bool | None:
    """Return whether the processor has instructions for 8-bit products; None if unknown."""
    flags = _cpu_info("flags") or _cpu_info("Features")
    return bool(_BYTE_PRODUCTS & set(flags[0].split())) if flags else None


def _quotas() -> Iterator[float]:
    """Yield the processors that each control group above this process allows, if it limits them."""
    try:
        lines = OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root, files = GROUPS, ["cpu.max"]
        if controllers:  # version 1
            root, files = GROUPS / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            if "cpu" not in controllers.split(","):
                continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            try:
                words = [word for file in files for word in (folder / file).read_text().split()]
            except OSError:  # inside a container, the path of the machine is not there
                words = []
            if len(words) == 2 and words[0] not in ("max", "-1"):
                yield int(words[0]) / int(words[1])
            if folder == root:
                break


def _cpu_info(key: str) -> list[str]:
    """Return the values of a key in Linux's list of processors; an empty list elsewhere."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    pairs = [line.partition(":") for line in lines]
    return [value.strip() for name, _, value in pairs if name.strip() == key]
