"""Query the NVIDIA GPUs of this machine from the driver. No toolkit is needed."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

DRIVER_LIBRARY = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
NVML_LIBRARY = "nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True)
class Gpu:
    """A visible GPU. ``target`` is its architecture in the form of bundles (``sm89``)."""

    name: str
    target: str
    memory_bytes: int


def load_driver() -> Any:
    """Load the library of the CUDA driver. Libraries that were linked without it see its symbols.

    Raises:
        OSError: there is no driver.
    """
    return ctypes.CDLL(DRIVER_LIBRARY, ctypes.RTLD_GLOBAL)


def find_gpus() -> list[Gpu]:
    """Return the GPUs that are visible to this process; empty without a driver or a GPU."""
    try:
        cuda = load_driver()
    except OSError:
        return []
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [_describe(cuda, ordinal) for ordinal in range(count.value)]


def pci_bus_id() -> str | None:
    """Return where the first visible GPU is plugged in, such as ``0000:3B:00.0``; else None."""
    if not find_gpus():
        return None
    text, handle = ctypes.create_string_buffer(32), ctypes.c_int()
    cuda = load_driver()
    cuda.cuDeviceGet(ctypes.byref(handle), 0)
    return text.value.decode() if cuda.cuDeviceGetPCIBusId(text, len(text), handle) == 0 else None


def pop_context() -> None:
    """Remove the current CUDA context from the driver's stack of this thread."""
    load_driver().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def driver_version() -> str | None:
    """Return the NVIDIA driver's version, such as ``580.65.06``, or None without one."""
    try:
        nvml = ctypes.CDLL(NVML_LIBRARY)
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    text = ctypes.create_string_buffer(96)
    status = nvml.nvmlSystemGetDriverVersion(text, len(text))
    nvml.nvmlShutdown()
    return text.value.decode() if status == 0 else None


def _describe(cuda: Any, ordinal: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    memory = ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), ordinal)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Gpu(name.value.decode(), f"sm{major.value}{minor.value}", memory.value)
