"""Run an engine with TensorRT or TensorRT-RTX, using pycuda for memory and streams.

All objects belong to the GPU's primary context, which torch and the CUDA runtime also use. It is
current on a thread only during a call. Each worker is a `Lane`: a stream with page-locked and
device buffers for the largest batch. A lane has an execution context for each batch size, because a
CUDA graph is valid only for the shapes of its capture. The contexts of a lane share activation
memory, because a lane runs one batch at a time.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from clinreadnet.errors import (
    BackendError,
    BackendUnavailable,
    DeviceLost,
    InputError,
    OutOfMemory,
    first_line,
)
from clinreadnet.runtime.backends.cuda_graph import OUT_OF_MEMORY, CudaGraph, CudaGraphError
from clinreadnet.runtime.backends.flavours import Flavour, collecting_logger
from clinreadnet.runtime.backends.kernel_cache import read_kernels, write_kernels
from clinreadnet.runtime.bundle.manifest import OUTPUT_INFOS, Artifact
from clinreadnet.runtime.gpu import load_driver, pop_context
from clinreadnet.runtime.profiling import stage
from clinreadnet.runtime.scores import Outputs
from clinreadnet.runtime.verdict import VALID, Validity, header_verdict
from clinreadnet.spec import OUTPUTS, SIZE

_COMPILES_AT_RUN_TIME = frozenset({"tensorrt-rtx"})
"""Flavours whose runtime compiles kernels for each batch size and captures CUDA graphs itself. A
capture by the caller can fail, because kernels are compiled during it."""

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING"""

_DTYPES: dict[str, DTypeLike] = {"FLOAT": np.float32, "HALF": np.float16}


class TensorRTBackend:
    """A deserialised engine.

    Attributes:
        header: verdict of the library on the engine's header; VALID without such a check.
        lanes: workers, in the order of their first batches.
    """

    def __init__(
        self,
        engine: bytes,
        *,
        artifact: Artifact,
        flavour: Flavour,
        trt: Any,
        batch: int,
        workers: int = 1,
        device: int = 0,
        weights: bytes | None = None,
        cache: Path | None = None,
    ) -> None:
        """Deserialise an engine and allocate its buffers.

        Args:
            engine: verified bytes of the engine file. An engine contains code.
            artifact: its entry in the manifest.
            flavour: flavour of TensorRT that built the engine.
            trt: imported module of the flavour.
            batch: the largest batch that will be run.
            workers: number of concurrent batches.
            device: index of the GPU.
            weights: verified bytes of the ONNX graph, for an engine without weights.
            cache: file that keeps the kernels that are compiled at run time; None keeps none.

        Raises:
            BackendUnavailable: pycuda or a GPU is missing, or TensorRT rejects the engine.
            OutOfMemory: the buffers for ``batch`` do not fit in memory.
            DeviceLost: the GPU failed.
        """
        self._cuda = import_pycuda()
        self._trt = trt
        self._flavour = flavour
        self._file = artifact.file
        self._compiles = flavour.name in _COMPILES_AT_RUN_TIME
        profile = artifact.batch
        sizes = {profile.min, profile.opt, batch} if self._compiles else {batch}
        self._prepared_sizes = sorted((n for n in sizes if n <= batch), reverse=True)
        # Shape of a slice, by tensor.
        self._shapes: dict[str, tuple[int, ...]] = {
            "hu": (1, SIZE, SIZE),
            **{info.name: tuple(int(size) for size in info.shape[1:]) for info in OUTPUT_INFOS},
        }
        self.header = VALID
        self._lost = False
        self._cache_file = cache
        self._cached = b""
        self._cache: Any = None
        self._notes: list[str] = []
        self.lanes: list[Lane] = []
        self._free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        self._messages: deque[str] = deque(maxlen=1)
        self._logger = collecting_logger(trt, self._messages)
        try:
            self._cuda.init()
            self._primary = self._cuda.Device(device).retain_primary_context()
        except self._cuda.Error as error:
            raise BackendUnavailable(f"CUDA does not start here ({first_line(error)})") from None
        try:
            with self._working():
                self._engine = self._deserialise(engine, artifact, weights)
                self._dtypes = self._tensor_dtypes(artifact)
                for _ in range(workers):
                    Lane(self, batch)
                self._keep_kernels()
        except BaseException:
            self.close()
            raise
        for lane in self.lanes:
            self._free.put(lane)

    def run(self, hu: ArrayLike) -> Outputs:
        """Run the engine once on at most ``batch`` slices; see `loading.Backend.run`."""
        lane = self._free.get()
        try:
            with self._working(lane.stream):
                return lane.run(np.asarray(hu))
        finally:
            self._free.put(lane)

    def close(self) -> None:
        """Free the engine and all memory. Do not call this during a run."""
        with suppress(BackendError), self._working():  # a lost GPU has already freed everything
            with ExitStack() as lanes:  # an error in one does not keep the others
                for lane in self.lanes:
                    lanes.callback(lane.close)
            self._cache = self._engine = None
        self.lanes.clear()
        self._cache = self._engine = None
        self._release()

    def _release(self) -> None:
        """Release the primary context.

        pycuda releases a context that is not current only on the thread that retained it, and
        leaves it current there. A context that is current is released and stays on the driver's
        stack.
        """
        primary, self._primary = self._primary, None
        if primary is None:
            return
        with suppress(self._cuda.Error):
            primary.push()
            with suppress(self._cuda.Error):
                primary.detach()
            pop_context()

    @property
    def notes(self) -> tuple[str, ...]:
        """Deviations from the default execution, such as a batch size without CUDA graph."""
        of_lanes = (note for lane in self.lanes for note in lane.notes)
        return tuple(dict.fromkeys((*self._notes, *of_lanes)))

    @contextmanager
    def _working(self, stream: Any = None) -> Iterator[None]:
        """Make the primary context current and convert errors; see `_converted`."""
        primary = self._primary
        if self._lost or primary is None:
            raise DeviceLost(_LOST)
        try:
            primary.push()
        except self._cuda.Error as error:
            raise self._lose() from error
        try:
            yield
        except BaseException as error:
            failure = self._converted(error, stream)
            lost = self._pop()
            if failure is None:
                raise
            if lost is not None and not isinstance(failure, DeviceLost):
                failure = lost
            if failure is error:
                raise
            raise failure from error
        else:
            if (failure := self._pop()) is not None:
                raise failure

    def _converted(self, error: BaseException, stream: Any) -> BackendError | None:
        """Return the package's error for one of CUDA or TensorRT; None for any other.

        Only ``stream`` is synchronised: the context must not be synchronised while another lane
        captures. This fails again if the context cannot recover.
        """
        cuda = self._cuda
        # pybind11 raises C++ exceptions as RuntimeError and MemoryError.
        kinds = (cuda.Error, CudaGraphError, BackendError, RuntimeError, MemoryError)
        if not isinstance(error, kinds):
            return None
        try:
            (cuda.Context if stream is None else stream).synchronize()
        except cuda.Error:
            return self._lose()
        if isinstance(error, BackendError):
            return error
        full = isinstance(error, cuda.MemoryError | MemoryError)
        if full or getattr(error, "code", 0) == OUT_OF_MEMORY:
            return OutOfMemory(f"GPU memory is full ({first_line(error)})")
        return BackendError(f"{self._flavour.name} failed ({first_line(error)})")

    def _pop(self) -> DeviceLost | None:
        """Leave the primary context. Return an error if that reports one of an earlier launch."""
        try:
            self._cuda.Context.pop()
        except self._cuda.Error as error:
            # pycuda ends the process with a thread on whose stack a valid context is left.
            primary, self._primary = self._primary, None
            if primary is not None:  # no other thread has done so
                with suppress(self._cuda.Error):
                    primary.detach()
            lost = self._lose()
            lost.__cause__ = error
            return lost
        return None

    def _lose(self) -> DeviceLost:
        self._lost = True
        return DeviceLost(_LOST)

    def _deserialise(self, engine: bytes, artifact: Artifact, weights: bytes | None) -> Any:
        runtime = self._trt.Runtime(self._logger)
        if self._flavour.reports_validity:
            self.header = header_verdict(self._trt, runtime, engine)
            if self.header.validity == Validity.INVALID:
                raise BackendUnavailable(f"{self._file}: {self.header.reason}")
        if artifact.version_compatible:
            runtime.engine_host_code_allowed = True  # the engine contains its own lean runtime
        loaded = runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise BackendUnavailable(f"{self._file}: {self._refusal('does not load it')}")
        if artifact.weights_stripped:
            refitter = self._trt.Refitter(loaded, self._logger)
            parser = self._trt.OnnxParserRefitter(refitter, self._logger)
            if not (parser.refit_from_bytes(weights) and refitter.refit_cuda_engine()):
                raise BackendUnavailable(
                    f"{self._file}: {self._refusal('does not take its weights')}"
                )
        return loaded

    def _tensor_dtypes(self, artifact: Artifact) -> dict[str, np.dtype[Any]]:
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        if set(names) != set(self._shapes):
            raise BackendUnavailable(f"{self._file}: not a ClinReadNet engine (it has {names})")
        profile = artifact.batch
        built = [tuple(shape)[0] for shape in engine.get_tensor_profile_shape("hu", 0)]
        if built != [profile.min, profile.opt, profile.max]:
            raise BackendUnavailable(
                f"{self._file}: built for batches {built}, the manifest says "
                f"{[profile.min, profile.opt, profile.max]}; export the bundle again"
            )
        shapes = {name: tuple(engine.get_tensor_shape(name))[1:] for name in names}
        kinds = {name: engine.get_tensor_dtype(name).name for name in names}
        if shapes != self._shapes or not set(kinds.values()) <= set(_DTYPES):
            raise BackendUnavailable(
                f"{self._file}: not a ClinReadNet engine (shapes {shapes}, types {kinds})"
            )
        return {name: np.dtype(_DTYPES[kind]) for name, kind in kinds.items()}

    def _create_context(self) -> Any:
        """Return an execution context without activation memory of its own."""
        managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._compiles:
            return self._engine.create_execution_context(managed)
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(managed)
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Lazily specialised kernels would change the last bits between two runs.
        strategies = self._trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        if self._cache is None and self._cache_file is not None:
            self._cache = self._open_cache(config, self._cache_file)
        if self._cache is not None:
            config.set_runtime_cache(self._cache)
        return self._engine.create_execution_context(config)

    def _open_cache(self, config: Any, file: Path) -> Any:
        """Return a cache of kernels, which all contexts share, with what ``file`` holds."""
        cache = config.create_runtime_cache()
        try:
            self._cached = read_kernels(file)
        except (InputError, OSError) as error:
            self._notes.append(first_line(error))
        if self._cached and not cache.deserialize(self._cached):
            self._cached = b""  # of another machine; it is compiled and written again
        return cache

    def _keep_kernels(self) -> None:
        """Write the kernels of the prepared batch sizes to the cache's file, if they are new."""
        if self._cache is None or self._cache_file is None:
            return
        kernels = bytes(self._cache.serialize())
        if kernels == self._cached:
            return
        try:
            write_kernels(self._cache_file, kernels)
        except (InputError, OSError) as error:
            self._notes.append(f"kernels are not kept ({first_line(error)})")

    def _refusal(self, what: str) -> str:
        return f"{self._flavour.name} {what} ({self._messages.pop() if self._messages else '?'})"

    def _failure(self, what: str) -> BackendError:
        """Return the error of a failed call; TensorRT only logs the reason."""
        refusal = self._refusal(what)
        full = "outofmemory" in refusal.lower().replace(" ", "")
        return OutOfMemory(refusal) if full else BackendError(refusal)


class Lane:
    """A worker: a stream, its buffers, and an execution context per batch size.

    Attributes:
        host: page-locked buffers of the largest batch, by tensor.
        device: device buffers, by tensor.
        runs: prepared batches, by batch size.
        notes: batch sizes that run without a CUDA graph.
        stream: CUDA stream of the worker.
    """

    def __init__(self, backend: TensorRTBackend, batch: int) -> None:
        self._backend = backend
        cuda = backend._cuda
        self.host: dict[str, NDArray[Any]] = {}
        self.device: dict[str, Any] = {}
        self.runs: dict[int, _PreparedBatch] = {}
        self._scratch: list[Any] = []
        self._owned = ExitStack()
        self.notes: list[str] = []
        # A blocking stream would wait for the legacy default stream, and captures would fail while
        # another thread uses it.
        self.stream: Any = cuda.Stream(_NON_BLOCKING)
        self._owned.callback(setattr, self, "stream", None)  # freed while its context is current
        backend.lanes.append(self)
        for name, dtype in backend._dtypes.items():
            self.host[name] = cuda.pagelocked_empty((batch, *backend._shapes[name]), dtype)
            page_locked: Any = self.host[name].base
            self._owned.callback(page_locked.free)
            self.device[name] = self._allocate(self.host[name].nbytes)
        for n in backend._prepared_sizes:  # the largest first: the others share its scratch memory
            self.runs[n] = _PreparedBatch(backend, self, n)

    def run(self, hu: NDArray[Any]) -> Outputs:
        """Run slices [n, 1, 512, 512]. The primary context must be current."""
        n = len(hu)
        size = self._size(n)
        run = self.runs.get(size)
        if run is None:
            run = self.runs[size] = _PreparedBatch(self._backend, self, size)
        # Values far above the encoded range become infinity in float16, which is clipped too.
        with stage("fill the page-locked buffer"), np.errstate(over="ignore"):
            np.copyto(run.host["hu"][:n], hu, casting="unsafe")
            run.host["hu"][n:] = run.host["hu"][n - 1]
        with stage("launch"):
            run.launch()
        with stage("wait for the GPU"):
            self.stream.synchronize()
        return {name: run.host[name][:n].astype(np.float32) for name in OUTPUTS}

    def _size(self, n: int) -> int:
        """Return the batch size that runs n slices.

        A new size would make a slice wait until its kernels are compiled, so a runtime that
        compiles runs the next prepared size, filled with copies of the last slice.
        """
        if not self._backend._compiles:
            return n
        return min((size for size in self.runs if size >= n), default=n)

    def scratch(self, size: int) -> Any:
        """Return activation memory of at least ``size`` bytes, shared by all runs of the lane."""
        for memory, available in self._scratch:
            if available >= size:
                return memory
        self._scratch.append((self._allocate(max(size, 1)), size))
        return self._scratch[-1][0]

    def _allocate(self, size: int) -> Any:
        memory = self._backend._cuda.mem_alloc(size)
        self._owned.callback(memory.free)
        return memory

    def close(self) -> None:
        """Free everything, the last first, also after an error."""
        for run in self.runs.values():
            run.close()
        self.runs.clear()
        self._owned.close()


class _PreparedBatch:
    """An execution context of a lane for one batch size, with its captured graph."""

    def __init__(self, backend: TensorRTBackend, lane: Lane, n: int) -> None:
        self._backend = backend
        self._lane = lane
        self._graph: CudaGraph | None = None
        self.host = {name: array[:n] for name, array in lane.host.items()}
        self.context = backend._create_context()
        if self.context is None:
            raise backend._failure("returns no execution context")
        if not self.context.set_input_shape("hu", (n, 1, SIZE, SIZE)):
            raise backend._failure(f"refuses batch {n}")
        size = self.context.update_device_memory_size_for_shapes()
        self.context.set_device_memory(int(lane.scratch(size)), size)
        for name, memory in lane.device.items():
            if not self.context.set_tensor_address(name, int(memory)):
                raise backend._failure(f"refuses the address of {name}")
        # Run once without a graph: TensorRT completes its setup for new shapes in the first run.
        self._enqueue()
        lane.stream.synchronize()
        if not backend._compiles:
            self._graph = self._captured(n)

    def _captured(self, n: int) -> CudaGraph | None:
        """Capture a CUDA graph; if that fails, add a note and return None."""
        stream = self._lane.stream
        try:
            return CudaGraph(stream.handle, self._enqueue)
        except OutOfMemory:
            raise
        except (CudaGraphError, BackendError) as error:
            if isinstance(error, CudaGraphError) and not error.of_capture:
                raise
            stream.synchronize()
            self._lane.notes.append(f"batch {n} runs without a CUDA graph ({first_line(error)})")
            return None

    def launch(self) -> None:
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch()

    def close(self) -> None:
        if self._graph is not None:
            self._graph.close()
        self.context = None

    def _enqueue(self) -> None:
        cuda, lane = self._backend._cuda, self._lane
        cuda.memcpy_htod_async(lane.device["hu"], self.host["hu"], lane.stream)
        if not self.context.execute_async_v3(lane.stream.handle):
            raise self._backend._failure("fails")
        for name in OUTPUTS:
            cuda.memcpy_dtoh_async(self.host[name], lane.device[name], lane.stream)


_LOST = "the GPU was lost; end this process and start it again, or look at `nvidia-smi`"


def import_pycuda() -> Any:
    """Import `pycuda.driver`.

    Raises:
        BackendUnavailable: it is not installed, or does not load.
    """
    with suppress(OSError):
        load_driver()  # a wheel of pycuda can be linked without it
    try:
        import pycuda.driver
    except ImportError as error:
        raise BackendUnavailable(
            f"pycuda does not load ({first_line(error)}); run `pip install pycuda`"
        ) from None
    return pycuda.driver
