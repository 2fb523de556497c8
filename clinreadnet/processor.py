"""The processor of this machine: its name, its count, and the products that it has."""

from __future__ import annotations

import functools
import math
import os
import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""Control groups of this process and of the machine (cgroups(7))."""
_BYTE_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}
"""Flags of the instructions for sums of 8-bit products, on x86 and on ARM."""
_BFLOAT16_PRODUCTS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of the instructions for products in bfloat16, on x86 and on ARM."""


def cpu_name() -> str:
    """Return the name of the processor."""
    return (_cpu_info("model name") or [platform.processor()])[0] or "unknown processor"


def processors() -> int:
    """Return the number of processors that this process may use.

    A share of processors, such as that of ``docker run --cpus 1.5``, is read once and rounded up.
    """
    bound = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if bound else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _share())))


def multiplies_bytes() -> bool | None:
    """Return whether the processor has instructions for 8-bit products; None if unknown."""
    return _has(_BYTE_PRODUCTS)


def multiplies_bfloat16() -> bool | None:
    """Return whether the processor has instructions for bfloat16 products; None if unknown."""
    return _has(_BFLOAT16_PRODUCTS)


def _has(instructions: set[str]) -> bool | None:
    flags = _cpu_info("flags") or _cpu_info("Features")
    return bool(instructions & set(flags[0].split())) if flags else None


@functools.cache
def _share() -> float:
    """Return the processors that the control groups of this process allow; infinity if any."""
    share = math.inf
    try:
        lines = OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return share
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
                quota, period = " ".join((folder / file).read_text() for file in files).split()
                if quota not in ("max", "-1"):
                    share = min(share, int(quota) / int(period))
            except (OSError, ValueError):  # in a container, the machine's path is not there
                pass
            if folder == root:
                break
    return share


def _cpu_info(key: str) -> list[str]:
    """Return the values of a key in Linux's list of processors; an empty list elsewhere."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    pairs = [line.partition(":") for line in lines]
    return [value.strip() for name, _, value in pairs if name.strip() == key]
