"""Run one ONNX graph of a bundle with OpenVINO on the CPU, in float32.

OpenVINO fuses more of the graph than ONNX Runtime. It is asked for float32 products: on processors
with bfloat16 units it would otherwise take bfloat16, which is outside of float32's budget. It is
imported on first use.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from clinreadnet.errors import BackendError, BackendUnavailable, OutOfMemory, first_line
from clinreadnet.runtime.scores import Outputs
from clinreadnet.spec import OUTPUTS, SIZE

_INPUT_DTYPES: dict[str, DTypeLike] = {"f32": np.float32, "f16": np.float16}


def installed_version() -> str | None:
    """Return the version of OpenVINO; None where it is not installed."""
    try:
        import openvino
    except ImportError:
        return None
    return str(openvino.__version__)


class OpenVinoBackend:
    """One loaded graph, compiled for each size of a batch when it first runs.

    OpenVINO is slower on graphs whose batch may change.

    Attributes:
        dtype: float type of the graph's input.
    """

    def __init__(
        self,
        model: bytes,
        *,
        batch: int,
        workers: int = 1,
        threads: int | None = None,
        products: str = "f32",
        file: str = "ONNX graph",
        outputs: Sequence[str] = OUTPUTS,
    ) -> None:
        """Load a graph and compile it for one size of a batch.

        Args:
            model: bytes of the ``.onnx`` file, already checked.
            batch: slices of a run to compile for now.
            workers: runs at the same time, each on its share of the threads.
            threads: CPU threads of all runs together; None for OpenVINO's choice.
            products: type of the products, as OpenVINO names it; the bench measures "bf16" too.
            file: named in errors.
            outputs: names of the outputs that the graph must have.

        Raises:
            BackendUnavailable: OpenVINO is not installed or refuses the graph, or the graph is not
                ours.
        """
        try:
            import openvino
        except ImportError:
            raise BackendUnavailable(
                'openvino is not installed; run `pip install "clinreadnet[openvino]"`'
            ) from None
        self._core: Any = openvino.Core()
        self._model, self._file, self._outputs = model, file, list(outputs)
        self._settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": products,
        }
        if workers > 1:
            self._settings["NUM_STREAMS"] = workers
        if threads is not None:
            self._settings["INFERENCE_NUM_THREADS"] = threads * workers
        self._idle: dict[int, queue.SimpleQueue[Any]] = {}
        self._compiled: dict[int, Any] = {}
        self._compiling = threading.Lock()
        try:
            graph = self._core.read_model(model, b"")
            names = {name for port in graph.outputs for name in port.get_names()}
            inputs = [(port.get_any_name(), port.get_element_type()) for port in graph.inputs]
        except Exception as error:  # openvino's exceptions share no base class
            raise self._refusal(error) from None
        dtype = _INPUT_DTYPES.get(inputs[0][1].get_type_name()) if len(inputs) == 1 else None
        if dtype is None or inputs[0][0] != "hu":
            raise BackendUnavailable(
                f"{file}: not a ClinReadNet graph (its input is not float `hu`)"
            )
        if not names >= set(outputs):
            raise BackendUnavailable(
                f"{file}: not a ClinReadNet graph (its outputs are {sorted(names)})"
            )
        self.dtype = np.dtype(dtype)
        try:
            self._compile(batch)
        except Exception as error:
            raise self._refusal(error) from None

    def run(self, hu: ArrayLike) -> Outputs:
        """Run the graph once. Any number of threads may call this.

        Args:
            hu: [n, 1, 512, 512], Hounsfield units, any real dtype.

        Returns:
            ``score`` [n], ``probs`` [n, 21], ``quality_map`` [n, 16, 16], ``novelty`` [n], float32.

        Raises:
            OutOfMemory: this batch does not fit in memory.
            BackendError: OpenVINO failed for another reason.
        """
        with np.errstate(over="ignore"):  # the graph clips infinity too
            feed = np.ascontiguousarray(hu, dtype=self.dtype)
        try:
            compiled = self._compile(len(feed))
            idle = self._idle[len(feed)]
            try:
                request = idle.get_nowait()
            except queue.Empty:
                request = compiled.create_infer_request()
            request.infer({"hu": feed}, share_inputs=True)
            outputs = {
                name: np.array(request.get_tensor(name).data, dtype=np.float32)
                for name in self._outputs
            }
            idle.put(request)
        except Exception as error:
            memory = isinstance(error, MemoryError) or "alloc" in str(error)
            kind = OutOfMemory if memory else BackendError
            raise kind(f"OpenVINO failed ({first_line(error)})") from error
        return outputs

    def close(self) -> None:
        """Free the graph. No run may be active."""
        self._idle.clear()
        self._compiled.clear()
        self._core = None

    def _compile(self, batch: int) -> Any:
        with self._compiling:
            if batch not in self._compiled:
                graph = self._core.read_model(self._model, b"")
                graph.reshape({"hu": [batch, 1, SIZE, SIZE]})
                self._idle[batch] = queue.SimpleQueue()
                self._compiled[batch] = self._core.compile_model(graph, "CPU", self._settings)
            return self._compiled[batch]

    def _refusal(self, error: Exception) -> BackendUnavailable:
        return BackendUnavailable(f"{self._file}: OpenVINO refuses it ({first_line(error)})")
