"""A GPU of NumPy arrays behind the names of `pycuda.driver` and of the CUDA driver's library.

Work on a stream waits until the stream is synchronised; a capture records it instead. Every call
needs a current context, as on a real GPU, and what is allocated is counted. Memory and streams
belong to the context that was current when they were made, and memory serves one stream at a time:
breaking that is an error here, where CUDA may go on with wrong results.

Contexts follow pycuda (src/cpp/cuda.hpp): beside the driver's stack each thread has pycuda's own. A
context that `pop` could not pop stays on it, and pycuda ends the process with the thread. A primary
context that is not current is released on the thread that retained it alone, and stays current.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Work = Callable[[], None]

NAME = b"Fake GPU"
NON_BLOCKING = 1
INVALID_CONTEXT = 201
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED = 900, 901


class Error(Exception):
    pass


class LogicError(Error):
    pass


class LaunchError(Error):
    pass


class MemoryError(Error):  # pycuda's own name
    pass


class FakeGpu:
    """A GPU with counters and faults for tests.

    Attributes:
        capacity: bytes of device memory.
        memory: live device allocations, by address.
        pinned: live page-locked arrays.
        allocations: every allocation ever made: memory, page-locked memory, streams, graphs.
        lost: whether every call fails, as after a fault on the device.
        leaked: number of streams that were dropped without a current context and are not freed.
        fail_next: raised by the next enqueued inference, once.
        failing: errors that calls raise, by name: `push`, `pop`, `synchronize`, `free`,
            `free host`, `detach`. CUDA reports an earlier launch's error in any of them.
        retained: number of references to primary contexts.
        refuse_capture: error code of the start of a capture; 0 starts it.
        devices: number of GPUs; all are alike, and ``memory`` is that of all.
        owners: device of each live allocation, by address.
    """

    def __init__(self, target: str = "sm89", capacity: int = 2**30) -> None:
        self.target = target
        self.devices = 1
        self.owners: dict[int, int | None] = {}
        self.capacity = capacity
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.pinned: set[int] = set()
        self.streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
        self.graphs: dict[int, list[tuple[Work, frozenset[int]]]] = {}
        self.modules: dict[int, str] = {}
        self.functions: dict[int, Any] = {}
        self.allocations = 0
        self.launches = 0
        self.leaked = 0
        self.lost = False
        self.fail_next: Exception | None = None
        self.failing: dict[str, Exception] = {}
        self.retained = 0
        self.refuse_capture = 0
        self.lock = threading.RLock()
        self._contexts = threading.local()
        self._next = 0x1000

    @property
    def stack(self) -> list[Context]:
        """Return the driver's contexts of this thread, the current one last."""
        return self._contexts.__dict__.setdefault("stack", [])

    @property
    def pushed(self) -> list[Context]:
        """Return pycuda's contexts of this thread, the current one last."""
        return self._contexts.__dict__.setdefault("pushed", [])

    def call(self, name: str) -> None:
        """Raise the error of a call that is made to fail."""
        if name in self.failing:
            raise copy.copy(self.failing[name])  # CUDA's binding raises a new one each time

    def check(self) -> None:
        if not self.stack:
            raise LogicError("invalid device context")
        if self.lost:
            raise LaunchError("launch failed: unspecified launch failure")

    def device(self) -> int | None:
        """Return the device of this thread's current context, or None without a device."""
        return getattr(self.stack[-1], "ordinal", None) if self.stack else None

    def own(self, device: int | None, what: str) -> None:
        """Check that the current context is that of a device."""
        self.check()
        if self.device() != device:
            raise LogicError(f"invalid device context: {what} belongs to another")

    def handle(self) -> int:
        self._next += 0x1000
        self.allocations += 1
        return self._next

    def used(self) -> int:
        return sum(block.nbytes for block in self.memory.values())

    def live(self) -> dict[str, int]:
        """Return the number of live allocations by kind."""
        return {
            "memory": len(self.memory),
            "pinned": len(self.pinned),
            "graphs": len(self.graphs),
            "streams": len(self.streams) + self.leaked,
        }

    def view(self, address: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.memory[address][:count].view(dtype).reshape(shape)

    def module(self) -> types.ModuleType:
        """Return what `import pycuda.driver` gives."""
        driver = types.ModuleType("pycuda.driver")
        driver.Error, driver.LogicError = Error, LogicError  # type: ignore[attr-defined]
        driver.LaunchError, driver.MemoryError = LaunchError, MemoryError  # type: ignore[attr-defined]
        driver.init = lambda: None  # type: ignore[attr-defined]
        driver.Device = lambda ordinal: Device(self, ordinal)  # type: ignore[attr-defined]
        driver.Context = types.SimpleNamespace(  # type: ignore[attr-defined]
            pop=self._pop, synchronize=self._synchronise_context
        )
        driver.Stream = lambda flags=0: Stream(self, flags)  # type: ignore[attr-defined]
        driver.mem_alloc = lambda size: DeviceAllocation(self, size)  # type: ignore[attr-defined]
        driver.pagelocked_empty = self._pagelocked_empty  # type: ignore[attr-defined]
        driver.memcpy_htod_async = self._htod  # type: ignore[attr-defined]
        driver.memcpy_dtoh_async = self._dtoh  # type: ignore[attr-defined]
        return driver

    def _pop(self) -> None:
        if not self.pushed:
            raise LogicError("context::pop failed: cannot pop non-current context")
        self.call("pop")
        self.stack.pop()
        self.pushed.pop()
        if self.pushed:
            self.stack.append(self.pushed[-1])

    def _synchronise_context(self) -> None:
        self.check()
        self.call("synchronize")
        if any(stream.captured is not None for stream in self.streams.values()):
            raise LogicError("operation not permitted when stream is capturing")

    def use_default_stream(self) -> None:
        """Work on the legacy default stream, as another thread's torch may do."""
        for stream in list(self.streams.values()):
            if stream.captured is not None and not stream.flags & NON_BLOCKING:
                stream.broken = True

    def _pagelocked_empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        self.check()
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        allocation = PagelockedHostAllocation(self, size)
        array = np.ndarray(shape, dtype, allocation)  # its base is the allocation, as in pycuda
        array.fill(np.nan)
        return array

    def _htod(self, dest: DeviceAllocation, src: NDArray[Any], stream: Stream) -> None:
        self.check()
        self._must_be_pinned(src)
        block = self.memory[int(dest)]
        data = src.reshape(-1).view(np.uint8)
        stream.put(lambda: np.copyto(block[: data.size], data), frozenset({int(dest)}))

    def _dtoh(self, dest: NDArray[Any], src: DeviceAllocation, stream: Stream) -> None:
        self.check()
        self._must_be_pinned(dest)
        block = self.memory[int(src)]
        data = dest.reshape(-1).view(np.uint8)
        stream.put(lambda: np.copyto(data, block[: data.size]), frozenset({int(src)}))

    def _must_be_pinned(self, array: NDArray[Any]) -> None:
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, memoryview):
            base = base.obj
        assert isinstance(base, PagelockedHostAllocation), "not page-locked"
        assert array.flags.c_contiguous


class Device:
    def __init__(self, gpu: FakeGpu, ordinal: int) -> None:
        if not 0 <= ordinal < gpu.devices:
            raise LogicError("cuDeviceGet failed: invalid device ordinal")
        self._gpu = gpu
        self._ordinal = ordinal

    def retain_primary_context(self) -> Context:
        return Context(self._gpu, self._ordinal)


class Context:
    def __init__(self, gpu: FakeGpu, ordinal: int) -> None:
        self._gpu = gpu
        self.ordinal = ordinal
        self._thread = threading.get_ident()
        self._valid = True
        gpu.retained += 1

    def push(self) -> None:
        self._gpu.call("push")
        if self._gpu.lost:
            raise LogicError("context is destroyed")
        if self._gpu.pushed:
            self._gpu.stack.pop()
        self._gpu.stack.append(self)
        self._gpu.pushed.append(self)

    def detach(self) -> None:
        if not self._valid:
            raise LogicError("cannot detach from invalid context")
        self._valid = False
        pushed = self._gpu.pushed
        if current := bool(pushed) and pushed[-1] is self:
            pushed[:] = [context for context in pushed if context._valid]
        elif self._thread == threading.get_ident():
            self._gpu.stack.append(self)
        else:
            return  # never released
        self._gpu.retained -= 1
        if current and pushed:
            self._gpu.stack.append(pushed[-1])
        self._gpu.call("detach")

    def __del__(self) -> None:
        if self._valid:
            with contextlib.suppress(Error):
                self.detach()


class PagelockedHostAllocation(bytearray):
    def __init__(self, gpu: FakeGpu, size: int) -> None:
        super().__init__(size)
        self._gpu = gpu
        self._handle = gpu.handle()
        gpu.pinned.add(self._handle)

    def free(self) -> None:
        self._gpu.check()
        self._gpu.call("free host")
        self._gpu.pinned.remove(self._handle)


class DeviceAllocation:
    def __init__(self, gpu: FakeGpu, size: int) -> None:
        gpu.check()
        with gpu.lock:
            if gpu.used() + size > gpu.capacity:
                raise MemoryError("cuMemAlloc failed: out of memory")
            self._gpu = gpu
            self._address = gpu.handle()
            gpu.memory[self._address] = np.full(size, 0xFF, np.uint8)  # NaN in every float type
            gpu.owners[self._address] = gpu.device()

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._gpu.own(self._gpu.owners[self._address], "the memory")
        self._gpu.call("free")
        del self._gpu.memory[self._address], self._gpu.owners[self._address]


class Stream:
    def __init__(self, gpu: FakeGpu, flags: int = 0) -> None:
        gpu.check()
        self.flags = flags
        self.broken = False
        self._gpu = gpu
        self._device = gpu.device()
        self.handle = gpu.handle()
        self.work: list[tuple[Work, frozenset[int]]] = []
        self.captured: list[tuple[Work, frozenset[int]]] | None = None
        gpu.streams[self.handle] = self

    def __del__(self) -> None:
        self._gpu.leaked += not self._gpu.stack

    def put(self, work: Work, uses: frozenset[int] = frozenset()) -> None:
        """Add work that uses memory at these addresses until it is done."""
        self._gpu.own(self._device, "the stream")
        if self.captured is not None:
            self.captured.append((work, uses))
            return
        with self._gpu.lock:
            for other in list(self._gpu.streams.values()):
                if other is not self and any(uses & theirs for _, theirs in other.work):
                    raise LogicError("memory is in use on another stream")
            self.work.append((work, uses))

    def synchronize(self) -> None:
        self._gpu.check()
        if self.captured is not None:
            raise LogicError("operation not permitted when stream is capturing")
        try:
            for work, _ in self.work:
                work()
        finally:
            self.work = []
        self._gpu.check()
        self._gpu.call("synchronize")


class DriverLibrary:
    """`libcuda`: devices and CUDA graphs, called as through ctypes."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def cuInit(self, flags: int) -> int:
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:
        if not self._gpu.stack:
            return INVALID_CONTEXT
        self._gpu.stack.pop()
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        write(count, self._gpu.devices)
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = NAME
        return 0

    def cuDeviceGetPCIBusId(self, name: Any, size: int, device: Any) -> int:
        name.value = b"0000:3B:00.0"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        digits = self._gpu.target.removeprefix("sm")
        write(value, int(digits[:-1] if attribute == 75 else digits[-1]))
        return 0

    def cuDeviceTotalMem_v2(self, value: Any, device: Any) -> int:
        write(value, self._gpu.capacity)
        return 0

    def cuStreamBeginCapture_v2(self, stream: ctypes.c_void_p, mode: ctypes.c_int) -> int:
        if self._gpu.lost:
            return 719
        if self._gpu.refuse_capture:
            return self._gpu.refuse_capture
        if any(other.captured is not None for other in self._gpu.streams.values()):
            return CAPTURE_UNSUPPORTED  # stricter than CUDA: captures are to be serialised
        self._stream(stream).captured = []
        return 0

    def cuStreamEndCapture(self, stream: ctypes.c_void_p, graph: Any) -> int:
        capturing = self._stream(stream)
        assert capturing.captured is not None
        if capturing.broken:
            capturing.captured, capturing.broken = None, False
            return CAPTURE_INVALIDATED
        self._gpu.graphs[write(graph, self._gpu.handle())] = capturing.captured
        capturing.captured = None
        return 0

    def cuGraphInstantiateWithFlags(
        self, executable: Any, graph: ctypes.c_void_p, flags: Any
    ) -> int:
        self._gpu.graphs[write(executable, self._gpu.handle())] = list(
            self._gpu.graphs[graph.value or 0]
        )
        return 0

    def cuGraphLaunch(self, executable: ctypes.c_void_p, stream: ctypes.c_void_p) -> int:
        if not self._gpu.stack:
            return INVALID_CONTEXT
        if self._gpu.lost:
            return 719
        self._gpu.launches += 1
        for work in self._gpu.graphs[executable.value or 0]:
            self._stream(stream).put(*work)
        return 0

    def cuGraphExecDestroy(self, executable: ctypes.c_void_p) -> int:
        del self._gpu.graphs[executable.value or 0]
        return 0

    def cuGraphDestroy(self, graph: ctypes.c_void_p) -> int:
        del self._gpu.graphs[graph.value or 0]
        return 0

    def cuModuleLoadData(self, module: Any, code: Any) -> int:
        self._gpu.check()
        self._gpu.modules[write(module, self._gpu.handle())] = code.value.decode()
        return 0

    def cuModuleGetFunction(self, function: Any, module: ctypes.c_void_p, entry: bytes) -> int:
        from clinreadnet.kernels.ptx.parse import parse

        handle = write(function, self._gpu.handle())
        text = self._gpu.modules[module.value or 0]
        self._gpu.functions[handle] = parse(text, entry.decode())
        return 0

    def cuLaunchKernel(self, function: ctypes.c_void_p, *arguments: Any) -> int:
        """Run a kernel that reads its first tensor and writes the others, on the PTX machine."""
        from clinreadnet.kernels.ptx.machine import Machine
        from clinreadnet.kernels.ptx.memory import GlobalMemory

        self._gpu.check()
        (grid, *_, shared), (stream, parameters, _) = (
            [size.value for size in arguments[:7]],
            arguments[7:],
        )
        program = self._gpu.functions[function.value or 0]
        addresses = [
            ctypes.c_uint64.from_address(parameters[place]).value
            for place in range(len(program.parameters))
        ]

        def work() -> None:
            memory = GlobalMemory()
            places = [
                memory.put(name, self._gpu.memory[address], output=number > 0)
                for number, (name, address) in enumerate(
                    zip(program.parameters, addresses, strict=True)
                )
            ]
            Machine(program, places, grid, range(grid), shared, memory).run()
            for name, address in zip(program.parameters[1:], addresses[1:], strict=True):
                block = self._gpu.memory[address]
                block[...] = memory.fetch(name, block)

        self._stream(stream).put(work, frozenset(addresses))
        return 0

    def _stream(self, stream: ctypes.c_void_p) -> Stream:
        return self._gpu.streams[stream.value or 0]


def write(reference: Any, value: Any) -> Any:
    """Write through ``ctypes.byref`` and return the value."""
    reference._obj.value = value
    return value
