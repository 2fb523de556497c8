"""A CUDA driver whose launches run on the PTX machine.

It decodes what a real driver decodes: the file, the symbol, the parameters by the types in the PTX,
the grid, the block and the shared memory. A cubin is run as the PTX that it was compiled with.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from clinreadnet.kernels.ptx.errors import Misaligned, OutOfBounds, PtxError
from clinreadnet.kernels.ptx.launch import execute
from clinreadnet.kernels.ptx.memory import GlobalMemory
from clinreadnet.kernels.ptx.parse import parse
from support.fake_pycuda import write

INVALID_VALUE, INVALID_IMAGE, NOT_FOUND = 1, 200, 500
ILLEGAL_ADDRESS, MISALIGNED_ADDRESS, LAUNCH_FAILED = 700, 716, 719
_SIZES = {"u64": 8, "u32": 4}
_C_TYPES: dict[int, Any] = {8: ctypes.c_uint64, 4: ctypes.c_int32}
_NAMES = {
    ILLEGAL_ADDRESS: b"CUDA_ERROR_ILLEGAL_ADDRESS",
    INVALID_IMAGE: b"CUDA_ERROR_INVALID_IMAGE",
}


class _Function:
    """A function of the library: ctypes sets ``argtypes`` on it, and converts by them."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.argtypes: tuple[Any, ...] | None = None

    def __call__(self, *arguments: Any) -> int:
        if self.argtypes is not None:
            assert len(arguments) == len(self.argtypes)
            arguments = tuple(
                kind.from_param(argument) and argument
                for kind, argument in zip(self.argtypes, arguments, strict=True)
            )
        result: int = self.call(*map(_plain, arguments))
        return result


def _plain(argument: Any) -> Any:
    """Return the value of a ctypes number; pointers and buffers as they are."""
    if isinstance(argument, ctypes.c_int | ctypes.c_uint64 | ctypes.c_void_p):
        return argument.value
    return argument


@dataclass
class FakeDriver:
    """The library of a driver with a GPU.

    Attributes:
        capability: compute capability of the GPU as a number.
        machine_code: text of the PTX by the bytes of its cubin.
        stopped: error code that every call returns after a fault; 0 before.
        memory: live allocations by address.
        launches: shared memory of each launch.
        retained: whether the context is retained.
        flicker: whether a launch of a kernel gives other bits each time.
    """

    capability: int = 80
    machine_code: Mapping[bytes, str] = field(default_factory=dict)
    stopped: int = 0
    memory: dict[int, bytearray] = field(default_factory=dict)
    launches: list[int] = field(default_factory=list)
    retained: bool = False
    flicker: bool = False

    def __post_init__(self) -> None:
        self._poisoned: set[int] = set()
        self._modules: dict[int, str] = {}
        self._functions: list[tuple[str, str]] = []
        self._most_shared: dict[int, int] = {}
        self._address = 0x7000_0000_0000

    def __getattr__(self, name: str) -> _Function:
        if not name.startswith("cu"):
            raise AttributeError(name)
        function = _Function(getattr(type(self), f"_{name}").__get__(self))
        self.__dict__[name] = function
        return function

    def _cuInit(self, flags: int) -> int:
        return 0

    def _cuDeviceGetCount(self, count: Any) -> int:
        write(count, 1)
        return 0

    def _cuDeviceGet(self, device: Any, ordinal: int) -> int:
        write(device, 0)
        return 0

    def _cuDeviceGetName(self, name: Any, size: int, device: int) -> int:
        name.value = b"Fake GPU"
        return 0

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> int:
        write(value, {75: self.capability // 10, 76: self.capability % 10}[attribute])
        return 0

    def _cuDeviceTotalMem_v2(self, size: Any, device: int) -> int:
        write(size, 2**30)
        return 0

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> int:
        self.retained = True
        write(context, 1)
        return 0

    def _cuDevicePrimaryCtxRelease_v2(self, device: int) -> int:
        self.retained = False
        return 0

    def _cuCtxSetCurrent(self, context: int) -> int:
        return 0 if context == 1 and self.retained else INVALID_VALUE

    def _cuCtxSynchronize(self) -> int:
        return self.stopped

    def _cuModuleLoadData(self, module: Any, code: Any) -> int:
        if self.stopped:
            return self.stopped
        address = ctypes.addressof(code)
        # The driver reads PTX up to its zero.
        text = next(
            (
                text
                for image, text in self.machine_code.items()
                if ctypes.string_at(address, min(len(image), len(code))) == image
            ),
            ctypes.string_at(address).decode(),
        )
        if ".entry" not in text:
            return INVALID_IMAGE
        self._modules[len(self._functions) + 100] = text
        write(module, len(self._functions) + 100)
        return 0

    def _cuModuleUnload(self, module: int) -> int:
        del self._modules[module]
        return self.stopped

    def _cuModuleGetFunction(self, function: Any, module: int, entry: bytes) -> int:
        text = self._modules[module]
        if re.search(rf"\.entry\s+{entry.decode()}\s*\(", text) is None:
            return NOT_FOUND
        self._functions.append((text, entry.decode()))
        write(function, len(self._functions))
        return 0

    def _cuFuncSetAttribute(self, function: int, attribute: int, value: int) -> int:
        assert attribute == 8
        self._most_shared[function] = value
        return 0

    def _cuMemAlloc_v2(self, pointer: Any, size: int) -> int:
        self.memory[self._address] = bytearray(size)
        write(pointer, self._address)
        self._address += -(-size // 4096) * 4096 + 4096
        return self.stopped

    def _cuMemFree_v2(self, pointer: int) -> int:
        del self.memory[pointer]
        self._poisoned.discard(pointer)
        return self.stopped

    def _cuMemcpyHtoD_v2(self, target: int, source: int, size: int) -> int:
        start, offset = self._place(target, size)
        self.memory[start][offset : offset + size] = ctypes.string_at(source, size)
        return self.stopped

    def _cuMemcpyDtoH_v2(self, target: int, source: int, size: int) -> int:
        start, offset = self._place(source, size)
        ctypes.memmove(target, bytes(self.memory[start][offset : offset + size]), size)
        return self.stopped

    def _cuMemsetD8_v2(self, target: int, value: int, size: int) -> int:
        start, offset = self._place(target, size)
        self.memory[start][offset : offset + size] = bytes([value]) * size
        self._poisoned.add(start)
        return self.stopped

    def _cuGetErrorName(self, code: int, name: Any) -> int:
        write(name, _NAMES.get(code))
        return 0

    def _cuLaunchKernel(
        self,
        function: int,
        *sizes_and_rest: Any,
    ) -> int:
        grid, block = sizes_and_rest[:3], sizes_and_rest[3:6]
        shared, stream, parameters, extra = sizes_and_rest[6:]
        assert stream is None and extra is None and grid[1:] == block[1:] == (1, 1)
        text, entry = self._functions[function - 1]
        program = parse(text, entry)
        if block[0] != program.threads or shared > self._most_shared.get(function, 48 * 1024):
            return INVALID_VALUE
        self.launches.append(shared)
        memory, values, places = GlobalMemory(16), [], {}
        for number, kind in enumerate(_parameter_types(text, entry)):
            value = _C_TYPES[_SIZES[kind]].from_address(parameters[number]).value
            if kind == "u64" and value:
                start, offset = self._place(value, 0)
                if value % 16:
                    self.stopped = MISALIGNED_ADDRESS
                    return 0
                name = "out" if start in self._poisoned else f"argument {number}"
                data = np.frombuffer(bytes(self.memory[start][offset:]), np.uint8)
                places[name] = start, offset, data
                value = memory.put(name, data, output=name == "out")
            values.append(value)
        start, offset, before = places["out"]
        try:
            execute(program, values, grid[0], shared, memory, torch.from_numpy(before.copy()))
        except OutOfBounds:
            self.stopped = ILLEGAL_ADDRESS
        except Misaligned:
            self.stopped = MISALIGNED_ADDRESS
        except PtxError as error:
            if "never written" not in str(error):  # silicon goes on, and the poison stays
                self.stopped = LAUNCH_FAILED
        after = bytearray(memory.fetch("out", before).tobytes())
        if self.flicker:
            after[0] ^= len(self.launches) % 2
        self.memory[start][offset:] = after
        return 0

    def _place(self, pointer: int, size: int) -> tuple[int, int]:
        for start, data in self.memory.items():
            if start <= pointer and pointer + size <= start + len(data):
                return start, pointer - start
        raise AssertionError(f"{hex(pointer)} is no allocated memory")


def _parameter_types(text: str, entry: str) -> list[str]:
    head = re.search(rf"\.entry\s+{entry}\s*\((.*?)\)", text, re.S)
    assert head is not None
    return re.findall(r"\.param \.(\w+)", head[1])
