"""Describe the machine of a run: name, caches, GPU clocks and load."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clinreadnet.processor import cpu_name
from clinreadnet.runtime.gpu import driver_version, find_gpus, pci_bus_id

PACKAGES = (
    "clinreadnet",
    "numpy",
    "nvidia-ml-py",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "pycuda",
    "pydicom",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "torch",
    "triton",
)
_NOT_THROTTLING = {"gpu_idle", "applications_clocks_setting", "none"}


def machine_name(gpu: str | None, processor: str, threads: int) -> str:
    """Return the folder name of a machine: its GPU, or its processor and threads."""
    words = gpu or f"{processor} {threads} threads"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def this_machine() -> str:
    """Return the folder name of this machine."""
    gpus = find_gpus()
    return machine_name(gpus[0].name if gpus else None, cpu_name(), os.cpu_count() or 1)


def describe() -> dict[str, Any]:
    """Return machine information that pytest-benchmark lacks."""
    gpus = find_gpus()
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    described: dict[str, Any] = {"packages": packages, "cache_bytes": cache_bytes()}
    if gpus:
        described |= {"gpu": gpus[0].name, "target": gpus[0].target, "driver": driver_version()}
    return described


def cache_bytes(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Return the size of the processor's largest cache; 32 MiB if unknown."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = [path.read_text().strip() for path in folder.glob("index*/size")]
    return max((int(s[:-1]) * units[s[-1]] for s in sizes if s[-1] in units), default=2**25)


def import_nvml() -> Any | None:
    """Return nvidia-ml-py's module, or None without it or a GPU."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _gpu(nvml: Any) -> Any:
    # NVML counts all GPUs of the machine, CUDA only visible ones.
    bus = pci_bus_id()
    if bus is None:
        return nvml.nvmlDeviceGetHandleByIndex(0)
    return nvml.nvmlDeviceGetHandleByPciBusId(bus)


@dataclass(frozen=True)
class Usage:
    """Energy and memory of a run on a GPU.

    Attributes:
        joules: energy of the whole board per run.
        memory_mib: peak memory on the GPU, of all programs together.
    """

    joules: float
    memory_mib: float


def usage(
    nvml: Any | None,
    run: Callable[[], object],
    seconds: float = 2.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Usage | None:
    """Run repeatedly for some seconds; return energy and memory of a run.

    Args:
        nvml: module of nvidia-ml-py, or None without a GPU.
        run: function that runs once and waits for the end.
        seconds: total time. NVML's energy counter is updated about every 0.1 s.
        clock: function that returns the time in seconds.

    Returns:
        The usage; None without a GPU or without an energy counter.
    """
    if nvml is None:
        return None
    gpu = _gpu(nvml)
    try:
        before = nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)  # mJ
    except nvml.NVMLError:
        return None
    start, runs, most = clock(), 0, 0
    while clock() - start < seconds or not runs:
        run()
        runs += 1
        most = max(most, nvml.nvmlDeviceGetMemoryInfo(gpu).used)
    after = nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    return Usage((after - before) / 1e3 / runs, most / 2**20)


def gpu_state(nvml: Any) -> dict[str, Any]:
    """Return clocks in MHz, temperature in °C and the reasons for throttling."""
    gpu = _gpu(nvml)
    mask = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)
    prefix = "nvmlClocksThrottleReason"
    reasons = {
        re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removeprefix(prefix)).lower(): bit
        for name, bit in vars(nvml).items()
        if name.startswith(prefix) and isinstance(bit, int) and bit.bit_count() == 1
    }
    return {
        "sm_mhz": nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "memory_mhz": nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
        "temperature_c": nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        "throttled": sorted(
            name for name, bit in reasons.items() if mask & bit and name not in _NOT_THROTTLING
        ),
    }


class Watch:
    """Observes the machine before and after a measurement. Construct it before.

    Attributes:
        before: state of the GPU at construction; empty without a GPU.
        after: state of the GPU at `stop`.
        busy: share of all processors that other processes used until `stop`; None if unknown.
    """

    def __init__(self, nvml: Any | None, stat: Path = Path("/proc/stat")) -> None:
        self._nvml, self._stat = nvml, stat
        self.before = gpu_state(nvml) if nvml else {}
        self.after: Mapping[str, Any] = {}
        self.busy: float | None = None
        self._start = self._seconds()

    def stop(self) -> None:
        """Observe the machine again."""
        self.after = gpu_state(self._nvml) if self._nvml else {}
        end = self._seconds()
        if self._start is not None and end is not None:
            wall, all_busy, own = (b - a for a, b in zip(self._start, end, strict=True))
            capacity = wall * (os.cpu_count() or 1)
            self.busy = max(0.0, all_busy - own) / capacity if capacity > 0 else None

    @property
    def throttled(self) -> list[str]:
        """Reasons for throttling, before or after."""
        states = (self.before, self.after)
        return sorted({reason for state in states for reason in state.get("throttled", ())})

    def _seconds(self) -> tuple[float, float, float] | None:
        """Return wall time, busy seconds of all processors, and those of this process."""
        try:
            ticks = [int(field) for field in self._stat.read_text().split("\n")[0].split()[1:9]]
        except (OSError, ValueError):
            return None
        idle = ticks[3] + ticks[4]
        busy = (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy, time.process_time()
