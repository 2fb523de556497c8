"""TensorRT's Python binding, as far as the runtime uses it, on the GPU of `fake_pycuda`.

An engine file is the JSON of an `Engine`; it computes what `tiny_bundle.reference` does, when the
stream comes to it and not before. An execution context needs the addresses of all its tensors
before it is enqueued. From TensorRT 10 on, several contexts may share a profile; the module of an
older one (``shares_profiles``) refuses the second.
"""

from __future__ import annotations

import enum
import json
import types
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from support.fake_pycuda import FakeGpu
from support.tiny_bundle import reference

SHAPES = {
    "hu": (-1, 1, 512, 512),
    "score": (-1,),
    "probs": (-1, 21),
    "quality_map": (-1, 16, 16),
    "novelty": (-1,),
}


@dataclass
class Engine:
    """Content of an engine file."""

    batch: tuple[int, int, int] = (1, 4, 8)
    offset: float = 0.0
    """Added to the score, from the position ``first_wrong`` of a batch on."""
    first_wrong: int = 0
    half: bool = False
    scratch: int = 4096
    """Activation memory of one slice, in bytes."""
    target: str = "sm89"
    weights: str = ""
    """Where not empty, the engine must be refitted with these bytes."""
    novel: bool = True
    """Whether it has the output `novelty`: engines made before it have not."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {n: shape for n, shape in SHAPES.items() if self.novel or n != "novelty"}

    def file(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1


class TensorRTAllocation(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class EngineValidity(enum.Enum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(enum.IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY = 0
    EAGER = 1


class ILogger:
    ERROR = 1
    INTERNAL_ERROR = 0

    def __init__(self) -> None:
        pass


class Fake:
    """Creates the module of a version and records its calls."""

    def __init__(self, gpu: FakeGpu, version: str, *, rtx: bool) -> None:
        self.gpu = gpu
        self.version = version
        self.rtx = rtx
        self.shares_profiles = True
        self.deserialised: list[bytes] = []
        self.compiled: list[int] = []
        self.contexts: list[Any] = []
        self.judgement: tuple[EngineValidity, int] = (EngineValidity.VALID, 0)

    def module(self, name: str) -> types.ModuleType:
        module: Any = types.ModuleType(name)
        module.__version__ = self.version
        module.ILogger = ILogger
        module.ExecutionContextAllocationStrategy = TensorRTAllocation
        module.Runtime = lambda logger: Runtime(self, logger)
        module.Refitter = lambda engine, logger: Refitter(engine)
        module.OnnxParserRefitter = lambda refitter, logger: OnnxParserRefitter(refitter)
        if self.rtx:
            module.EngineValidity = EngineValidity
            module.EngineInvalidityDiagnostics = EngineInvalidityDiagnostics
            module.CudaGraphStrategy = CudaGraphStrategy
            module.DynamicShapesKernelSpecializationStrategy = (
                DynamicShapesKernelSpecializationStrategy
            )
        return module


class Runtime:
    def __init__(self, fake: Fake, logger: Any) -> None:
        self._fake = fake
        self._logger = logger
        self.engine_host_code_allowed = False
        if fake.rtx:
            self.engine_header_size = 64
            self.get_engine_validity = self._get_engine_validity

    def _get_engine_validity(self, header: bytes) -> tuple[EngineValidity, int]:
        assert len(header) <= 64
        return self._fake.judgement

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        self._fake.gpu.check()
        self._fake.deserialised.append(content)
        try:
            spec = Engine(**json.loads(content))
        except (ValueError, TypeError):
            self._logger.log(ILogger.ERROR, "[runtime.cpp] magic tag does not match\nmore")
            return None
        return CudaEngine(self._fake, self._logger, spec)


class CudaEngine:
    def __init__(self, fake: Fake, logger: Any, spec: Engine) -> None:
        self.fake, self.logger, self.spec = fake, logger, spec
        self.num_io_tensors = len(spec.shapes())
        self.profile_taken = False
        if fake.rtx:
            self.create_runtime_config = lambda: RuntimeConfig(fake)

    def get_tensor_name(self, index: int) -> str:
        return list(self.spec.shapes())[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return SHAPES[name]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.HALF if self.spec.half else DataType.FLOAT

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert (name, profile) == ("hu", 0)
        return [(n, 1, 512, 512) for n in self.spec.batch]

    def create_execution_context(self, allocation: Any) -> Any:
        self.fake.gpu.check()
        if self.spec.weights:
            self.logger.log(ILogger.ERROR, "weights are missing")
            return None
        if self.fake.rtx:
            assert isinstance(allocation, RuntimeConfig)
            assert allocation.strategy is TensorRTAllocation.USER_MANAGED
        else:
            assert allocation is TensorRTAllocation.USER_MANAGED
        context = ExecutionContext(self, allocation._cache if self.fake.rtx else None)
        self.fake.contexts.append(context)
        return context


class RuntimeCache:
    """Kernels by batch size, of one machine."""

    def __init__(self, fake: Fake) -> None:
        self._machine = f"{fake.version} {fake.gpu.target}"
        self._sizes: list[int] = []

    def deserialize(self, blob: bytes) -> bool:
        machine, sizes = json.loads(blob)
        if machine == self._machine:
            self._sizes = sizes
        return bool(machine == self._machine)

    def serialize(self) -> bytes:
        return json.dumps([self._machine, self._sizes]).encode()

    def _compile(self, n: int) -> bool:
        """Return whether the kernels of a batch size were missing."""
        missing = n not in self._sizes
        self._sizes = sorted({*self._sizes, n})
        return missing


class RuntimeConfig:
    def __init__(self, fake: Fake) -> None:
        self._fake = fake
        self._cache: RuntimeCache | None = None
        self.strategy: Any = None
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = (
            DynamicShapesKernelSpecializationStrategy.LAZY
        )

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache(self._fake)

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self._cache = cache
        return True


class ExecutionContext:
    def __init__(self, engine: CudaEngine, cache: RuntimeCache | None = None) -> None:
        self.engine = engine
        self._cache = cache
        self._gpu = engine.fake.gpu
        self._addresses: dict[str, int] = {}
        self._memory = 0
        self._scratch = 0
        self.n = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        engine = self.engine
        if not self.n and engine.profile_taken and not engine.fake.shares_profiles:
            engine.logger.log(ILogger.ERROR, "profile 0 has been chosen for another context")
            return False
        engine.profile_taken = True
        if self._cache is None or self._cache._compile(shape[0]):
            engine.fake.compiled.append(shape[0])
        low, _, high = self.engine.spec.batch
        self.n = shape[0]
        return name == "hu" and low <= self.n <= high and shape[1:] == (1, 512, 512)

    def update_device_memory_size_for_shapes(self) -> int:
        return self.n * self.engine.spec.scratch

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self._gpu.memory[memory].nbytes >= size
        self._memory = size
        self._scratch = memory

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory in self._gpu.memory

    def execute_async_v3(self, handle: int) -> bool:
        self._gpu.check()
        if self._gpu.fail_next is not None:
            error, self._gpu.fail_next = self._gpu.fail_next, None
            self.engine.logger.log(ILogger.ERROR, str(error))
            return False
        missing = [name for name in self.engine.spec.shapes() if name not in self._addresses]
        if missing or not self.n:
            self.engine.logger.log(ILogger.ERROR, f"Address is not set for tensor {missing[:1]}")
            return False
        assert self._memory >= self.update_device_memory_size_for_shapes()
        n, addresses, spec = self.n, dict(self._addresses), self.engine.spec
        dtype = np.float16 if spec.half else np.float32

        def work() -> None:
            hu = self._gpu.view(addresses["hu"], (n, 512, 512), dtype)
            for name, value in reference(hu).items():
                if name not in spec.shapes():
                    continue
                out = self._gpu.view(addresses[name], (n, *SHAPES[name][1:]), dtype)
                out[...] = value
                if name == "score":
                    out[spec.first_wrong :] += spec.offset

        self._gpu.streams[handle].put(work, frozenset({self._scratch, *addresses.values()}))
        return True


class Refitter:
    def __init__(self, engine: CudaEngine) -> None:
        self.engine = engine
        self.given = b""

    def refit_cuda_engine(self) -> bool:
        self.engine.spec.weights = ""
        return True


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter) -> None:
        self._refitter = refitter

    def refit_from_bytes(self, content: bytes) -> bool:
        return content == self._refitter.engine.spec.weights.encode()
