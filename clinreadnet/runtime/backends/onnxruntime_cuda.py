"""Run an ONNX graph with ONNX Runtime on a GPU.

Inputs and outputs are in device memory at fixed addresses (`IOBinding`), one set for each worker
and batch size, because a CUDA graph uses the addresses of its capture. ONNX Runtime captures one
graph for each ``gpu_graph_id`` and thread, and must not run on other threads at the same time. With
CUDA graphs, therefore, one thread makes all runs; several workers run without CUDA graphs.
"""

from __future__ import annotations

import itertools
import queue
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clinreadnet.errors import BackendError, BackendUnavailable, DeviceLost, OutOfMemory, first_line
from clinreadnet.runtime.backends.graphs import runtime_error, to_feed
from clinreadnet.runtime.backends.onnxruntime import CUDA, import_onnxruntime, start_session
from clinreadnet.runtime.bundle.manifest import OUTPUT_INFOS
from clinreadnet.runtime.scores import Outputs
from clinreadnet.spec import SIZE

CUDA_SETTINGS = {
    # TF32 is CUDA's default for float32 and misses the fp32 budget.
    "use_tf32": "0",
    # The default, EXHAUSTIVE, measures every algorithm again for each new batch size.
    "cudnn_conv_algo_search": "HEURISTIC",
}
"""Options of ONNX Runtime's CUDA provider."""
_NO_GRAPH = "-1"
"""``gpu_graph_id`` of a run without capture."""
_RUNS_TO_CAPTURE = 2
"""Runs before a graph is captured: the first run of a shape allocates, the next captures."""


class OnnxRuntimeCudaBackend:
    """A loaded graph on a GPU.

    Attributes:
        dtype: float type of the graph's input.
        notes: deviations from the default execution, such as a batch size without CUDA graph.
    """

    def __init__(
        self,
        model: bytes,
        *,
        batch: int,
        workers: int = 1,
        device: int = 0,
        file: str = "ONNX graph",
    ) -> None:
        """Load a graph and run it once with ``batch`` slices.

        Args:
            model: bytes of the ``.onnx`` file, already checked.
            batch: the largest batch that will be run.
            workers: number of concurrent batches.
            device: index of the GPU.
            file: named in errors.

        Raises:
            BackendUnavailable: ONNX Runtime is not installed, has no CUDA, or rejects the graph.
            OutOfMemory: ``batch`` does not fit.
            DeviceLost, BackendError: the first run failed.
        """
        self._file, self._device = file, device
        self._ids = itertools.count(1)
        self.notes: tuple[str, ...] = ()
        self._onnxruntime: Any = import_onnxruntime(CUDA)
        self._graphs = workers == 1
        if not self._graphs:
            self._note(f"runs without CUDA graphs (workers={workers} share one session)")
        self._session: Any = None
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self._threads = ThreadPoolExecutor(workers)
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        try:
            self._start(model)
            self._threads.submit(self._prepare, model, batch).result()
        except BaseException:
            self.close()
            raise
        for _ in range(workers - 1):
            self._free.put(_Worker(self))

    def run(self, hu: ArrayLike) -> Outputs:
        """Run the graph once; see `Backend.run`. Raises `DeviceLost` if the GPU failed."""
        return self._threads.submit(self._run, np.asarray(hu)).result()

    def _run(self, hu: NDArray[Any]) -> Outputs:
        worker = self._free.get()
        try:
            return worker.run(hu)
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """Free the graph and its memory. Do not call this during a run."""
        self._threads.shutdown()
        while not self._free.empty():
            self._free.get().close()
        self._session = None

    def _note(self, text: str) -> None:
        self.notes = tuple(dict.fromkeys((*self.notes, text)))

    def _start(self, model: bytes) -> None:
        """Start the session; without CUDA graphs if they are not supported."""
        settings = CUDA_SETTINGS | {"device_id": str(self._device)}
        wanted = [settings | {"enable_cuda_graph": "1"}] if self._graphs else []
        for tried in [*wanted, settings]:
            try:
                self._session, self.dtype = start_session(
                    self._onnxruntime, model, CUDA, tried, file=self._file
                )
                break
            except BackendUnavailable as error:
                if tried is settings:
                    raise
                self._without_graphs(error)

    def _without_graphs(self, reason: Exception) -> None:
        self._graphs = False
        self._note(f"runs without CUDA graphs ({first_line(reason)})")

    def _prepare(self, model: bytes, batch: int) -> None:
        """Create a worker and run ``batch``. If the capture fails, restart the session.

        A session whose capture failed cannot be used further.
        """
        nothing = np.zeros((batch, 1, SIZE, SIZE), np.float32)
        worker = _Worker(self)
        try:
            worker.run(nothing)
        except (OutOfMemory, DeviceLost):
            raise
        except BackendError as error:
            if not self._graphs:
                raise
            worker.close()
            self._without_graphs(error)
            self._start(model)
            worker = _Worker(self)
            worker.run(nothing)
        self._free.put(worker)


class _Worker:
    """Device memory of a concurrent run, for each batch size."""

    def __init__(self, backend: OnnxRuntimeCudaBackend) -> None:
        self._backend = backend
        self._bound: dict[int, BoundBatch] = {}

    def run(self, hu: NDArray[Any]) -> Outputs:
        n = len(hu)
        try:
            if n not in self._bound:
                self._bound[n] = self._bind(hu)
            return self._bound[n].run(hu)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise runtime_error(error) from error

    def _bind(self, hu: NDArray[Any]) -> BoundBatch:
        """Allocate the memory of a new batch size and capture its graph."""
        backend = self._backend
        bound = BoundBatch(backend, len(hu), str(next(backend._ids)) if backend._graphs else None)
        if not backend._graphs:
            return bound
        try:
            for _ in range(_RUNS_TO_CAPTURE):
                bound.run(hu)
            return bound
        except Exception as error:
            # The first batch size decides whether CUDA graphs are used; see `_prepare`.
            if not self._bound or isinstance(runtime_error(error), OutOfMemory | DeviceLost):
                raise
            backend._note(f"batch {len(hu)} runs without a CUDA graph ({first_line(error)})")
            return BoundBatch(backend, len(hu), _NO_GRAPH)

    def close(self) -> None:
        self._bound.clear()


class BoundBatch:
    """GPU memory of a batch size, bound to the session's inputs and outputs."""

    def __init__(self, backend: OnnxRuntimeCudaBackend, n: int, graph: str | None) -> None:
        runtime = backend._onnxruntime
        where = ("cuda", backend._device)

        def allocate(shape: tuple[int, ...], dtype: Any) -> Any:
            return runtime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, *where)

        self._session, self._dtype = backend._session, backend.dtype
        self._hu = allocate((n, 1, SIZE, SIZE), backend.dtype.type)
        self._binding = backend._session.io_binding()
        self._binding.bind_ortvalue_input("hu", self._hu)
        self._outputs: dict[str, Any] = {}
        for info in OUTPUT_INFOS:
            shape = (n, *map(int, info.shape[1:]))
            kind = _output_dtype(backend._session, info.name)
            self._outputs[info.name] = allocate(shape, kind)
            self._binding.bind_ortvalue_output(info.name, self._outputs[info.name])
        self._options = runtime.RunOptions()
        if graph is not None:
            self._options.add_run_config_entry("gpu_graph_id", graph)

    def run(self, hu: NDArray[Any]) -> Outputs:
        """Run n slices [n, 1, 512, 512]."""
        self._hu.update_inplace(to_feed(hu, self._dtype))
        self._session.run_with_iobinding(self._binding, self._options)
        return {
            name: np.array(value.numpy(), dtype=np.float32) for name, value in self._outputs.items()
        }


def _output_dtype(session: Any, name: str) -> Any:
    kinds = {output.name: output.type for output in session.get_outputs()}
    return np.float16 if kinds[name] == "tensor(float16)" else np.float32
