"""Launch exported kernels on this machine's GPU with the CUDA driver alone.

Neither Triton nor a compiler is needed: the driver loads the files of `clinreadnet export-kernels`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import torch
from torch import Tensor

from clinreadnet.errors import BackendUnavailable
from clinreadnet.kernels.ptx.launch import Kernel, bits_of, bound, grid_of
from clinreadnet.runtime.gpu import find_gpus, load_driver

POISON = 0xFF
"""Byte of an output before a launch: NaN in every float type."""
DEFAULT_SHARED = 48 * 1024
"""Shared memory per block in bytes that needs no opting in."""
EXACT = 90
"""First compute capability whose machine code and PTX run on no other."""

_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_STOPPED = range(700, 720)  # CUDA_ERROR_ILLEGAL_ADDRESS ... CUDA_ERROR_LAUNCH_FAILED
_REFUSED = 701  # CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, after which the GPU goes on

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGet": (ctypes.c_void_p, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (ctypes.c_void_p, ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuCtxSetCurrent": (ctypes.c_void_p,),
    "cuCtxSynchronize": (),
    "cuModuleLoadData": (ctypes.c_void_p, ctypes.c_void_p),
    "cuModuleUnload": (ctypes.c_void_p,),
    "cuModuleGetFunction": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p),
    "cuFuncSetAttribute": (ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
    "cuMemAlloc_v2": (ctypes.c_void_p, ctypes.c_size_t),
    "cuMemFree_v2": (ctypes.c_uint64,),
    "cuMemcpyHtoD_v2": (ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t),
    "cuMemcpyDtoH_v2": (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t),
    "cuMemsetD8_v2": (ctypes.c_uint64, ctypes.c_ubyte, ctypes.c_size_t),
    "cuLaunchKernel": (ctypes.c_void_p, *(7 * [ctypes.c_uint]), *(3 * [ctypes.c_void_p])),
    "cuGetErrorName": (ctypes.c_int, ctypes.c_void_p),
}


class DriverError(Exception):
    """A call of the CUDA driver failed.

    Attributes:
        stopped: whether the GPU runs nothing more in this process.
    """

    def __init__(self, call: str, code: int, name: str) -> None:
        super().__init__(f"{call}: {name}")
        self.stopped = code in _STOPPED and code != _REFUSED


class GpuLauncher:
    """Launches kernels on the first visible GPU. Use it in a ``with`` statement.

    Attributes:
        capability: compute capability as a number, 90 for 9.0.

    Raises:
        BackendUnavailable: there is no driver or no GPU.
    """

    def __init__(self) -> None:
        gpus = find_gpus()
        if not gpus:
            raise BackendUnavailable(
                "no NVIDIA GPU that this process may use; without `gpu`, PTX files run on the CPU"
            )
        self.capability = int(gpus[0].target.removeprefix("sm"))
        self._driver = load_driver()
        for name, types in _SIGNATURES.items():
            getattr(self._driver, name).argtypes = types
        self._device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._driver.cuDevicePrimaryCtxRelease_v2(self._device)

    def takes(self, kernel: Kernel) -> bool:
        """Return whether the GPU can load a file, by its target."""
        target = int(kernel.entry["target"].removeprefix("sm"))
        if target >= EXACT:
            return target == self.capability
        if kernel.entry["kind"] == "cubin" and target // 10 != self.capability // 10:
            return False
        return target <= self.capability

    def launch(
        self, kernel: Kernel, tensors: Mapping[str, Tensor], sizes: Mapping[str, int], times: int
    ) -> list[Tensor]:
        """Run a kernel several times; the memory of each output holds NaN before.

        Args:
            kernel: exported kernel that the GPU ``takes``.
            tensors: inputs by argument name, in host memory.
            sizes: sizes of the launch by name.
            times: number of launches.

        Returns:
            The output of each launch in host memory.

        Raises:
            DriverError: the driver refuses the file or the launch, or the kernel fails.
            ValueError: the tensors do not match ``kernels.json``.
        """
        alignment = kernel.entry["pointer_alignment"]
        with self._module(kernel) as function, ExitStack() as memory:
            values: list[Any] = []
            out, out_pointer = torch.empty(0), 0
            for argument in bound(kernel, tensors, sizes):
                if isinstance(argument.value, Tensor):
                    size = argument.value.nbytes
                    # The address is a multiple of the promised alignment, not of twice that, and
                    # nothing follows the tensor: a sanitizer sees accesses past its end.
                    pointer = self._allocate(alignment + size, memory) + alignment
                    if argument.name == "out":
                        out, out_pointer = argument.value, pointer
                    else:
                        source = bits_of(argument.value).ctypes.data
                        self._call("cuMemcpyHtoD_v2", pointer, source, size)
                    values.append(ctypes.c_uint64(pointer))
                elif argument.c_type == "int32_t":
                    values.append(ctypes.c_int32(argument.value))
                else:
                    values.append(ctypes.c_uint64(argument.value))
            addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
            shared = kernel.entry["dynamic_shared_bytes"]
            grid, block = grid_of(kernel, sizes), kernel.entry["block"]
            outputs = []
            for _ in range(times):
                self._call("cuMemsetD8_v2", out_pointer, POISON, out.nbytes)
                self._call(
                    "cuLaunchKernel", function, grid, 1, 1, *block, shared, None, addresses, None
                )
                self._call("cuCtxSynchronize")
                result = torch.empty_like(out)
                target = bits_of(result).ctypes.data
                self._call("cuMemcpyDtoH_v2", target, out_pointer, out.nbytes)
                outputs.append(result)
        return outputs

    @contextmanager
    def _module(self, kernel: Kernel) -> Iterator[ctypes.c_void_p]:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        code = ctypes.create_string_buffer(kernel.code)  # PTX ends with a zero
        self._call("cuModuleLoadData", ctypes.byref(module), code)
        try:
            entry = str(kernel.entry["entry"]).encode()
            self._call("cuModuleGetFunction", ctypes.byref(function), module, entry)
            shared = kernel.entry["dynamic_shared_bytes"]
            if shared > DEFAULT_SHARED:
                self._call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, shared)
            yield function
        finally:
            self._driver.cuModuleUnload(module)

    def _allocate(self, size: int, memory: ExitStack) -> int:
        """Return the address of new memory, which is freed when ``memory`` is closed."""
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), size)
        memory.callback(self._driver.cuMemFree_v2, pointer.value)
        return pointer.value

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorName(code, ctypes.byref(text))
            raise DriverError(name, code, (text.value or f"CUDA error {code}".encode()).decode())
