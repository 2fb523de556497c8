"""TensorRT's Python binding over the CUDA driver: an engine is PTX, which a run launches.

It needs a GPU and no TensorRT, so that the backend's memory, lanes and graphs can run where
TensorRT is not installed. On the GPU of `fake_pycuda` the PTX machine runs the launches.
"""

from __future__ import annotations

import ctypes
import types
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.runtime.backends import cuda_graph
from support.fake_tensorrt import SHAPES, DataType, ILogger, TensorRTAllocation

BATCH = (1, 4, 8)
THREADS = 256
ENTRY = "outputs"
ENGINE = b"""
.version 7.0
.target sm_75
.address_size 64
.visible .entry outputs(
    .param .u64 hu,
    .param .u64 score,
    .param .u64 probs,
    .param .u64 quality_map,
    .param .u64 novelty
)
.reqntid 256
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<16>;
    ld.param.b64 %rd0, [hu];
    ld.param.b64 %rd1, [score];
    ld.param.b64 %rd2, [probs];
    ld.param.b64 %rd3, [quality_map];
    ld.param.b64 %rd4, [novelty];
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, %ctaid.x;
    mul.wide.u32 %rd5, %r1, 1048576;
    add.s64 %rd5, %rd0, %rd5;
    ld.global.b32 %r2, [%rd5];
    cvt.rn.f32.u32 %r3, %r0;
    mul.wide.u32 %rd6, %r0, 4;
    sub.f32 %r4, %r2, %r3;
    mul.wide.u32 %rd7, %r1, 1024;
    add.s64 %rd7, %rd3, %rd7;
    add.s64 %rd7, %rd7, %rd6;
    st.global.b32 [%rd7], %r4;
    setp.lt.u32 %p0, %r0, 21;
    add.f32 %r5, %r2, %r3;
    mul.wide.u32 %rd8, %r1, 84;
    add.s64 %rd8, %rd2, %rd8;
    add.s64 %rd8, %rd8, %rd6;
    @%p0 st.global.b32 [%rd8], %r5;
    setp.lt.u32 %p1, %r0, 1;
    mul.wide.u32 %rd9, %r1, 4;
    add.s64 %rd10, %rd1, %rd9;
    @%p1 st.global.b32 [%rd10], %r2;
    add.f32 %r6, %r2, %r2;
    add.s64 %rd11, %rd4, %rd9;
    @%p1 st.global.b32 [%rd11], %r6;
    ret;
}
"""


def expected(hu: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return the engine's outputs for the first pixel of each slice [B, 1, 512, 512]."""
    first = hu.reshape(len(hu), -1)[:, 0]
    return {
        "score": first,
        "probs": first[:, None] + np.arange(21, dtype=np.float32),
        "quality_map": (first[:, None] - np.arange(256, dtype=np.float32)).reshape(-1, 16, 16),
        "novelty": 2 * first,
    }


def module() -> types.ModuleType:
    """Return the module of a TensorRT 11 whose engines are PTX."""
    tensorrt: Any = types.ModuleType("tensorrt")
    tensorrt.__version__ = "11.4.0.9"
    tensorrt.ILogger = ILogger
    tensorrt.ExecutionContextAllocationStrategy = TensorRTAllocation
    tensorrt.Runtime = _Runtime
    return tensorrt


def _call(name: str, *arguments: Any) -> None:
    code = getattr(cuda_graph.load_driver(), name)(*arguments)
    assert code == 0, f"{name}: CUDA error {code}"


class _Runtime:
    engine_host_code_allowed = False

    def __init__(self, logger: Any) -> None:
        pass

    def deserialize_cuda_engine(self, content: bytes) -> _Engine:
        return _Engine(content)


class _Engine:
    num_io_tensors = len(SHAPES)

    def __init__(self, content: bytes) -> None:
        loaded, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuModuleLoadData", ctypes.byref(loaded), ctypes.create_string_buffer(content))
        _call("cuModuleGetFunction", ctypes.byref(self.function), loaded, ENTRY.encode())

    def get_tensor_name(self, index: int) -> str:
        return list(SHAPES)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return SHAPES[name]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.FLOAT

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(n, *SHAPES["hu"][1:]) for n in BATCH]

    def create_execution_context(self, allocation: TensorRTAllocation) -> _Context:
        assert allocation is TensorRTAllocation.USER_MANAGED
        return _Context(self.function)


class _Context:
    def __init__(self, function: ctypes.c_void_p) -> None:
        self._function = function
        self._addresses: dict[str, int] = {}
        self._n = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._n = shape[0]
        return BATCH[0] <= self._n <= BATCH[-1]

    def update_device_memory_size_for_shapes(self) -> int:
        return 4096 * self._n

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory and size == 4096 * self._n

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory % 16 == 0

    def execute_async_v3(self, handle: int) -> bool:
        values = [ctypes.c_uint64(self._addresses[name]) for name in SHAPES]
        parameters = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        sizes = map(ctypes.c_uint, (self._n, 1, 1, THREADS, 1, 1, 0))
        stream = ctypes.c_void_p(handle)
        _call("cuLaunchKernel", self._function, *sizes, stream, parameters, None)
        return True
