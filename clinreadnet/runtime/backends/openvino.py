"""Run an ONNX graph with OpenVINO on the CPU, in float32 or int8.

OpenVINO fuses more operators than ONNX Runtime. The inference precision is set to float32: on
processors with bfloat16 units the default is bfloat16, which exceeds the float32 budget. Quantised
products of an int8 graph run in 8 bits. OpenVINO is imported on first use.
"""

from __future__ import annotations

import importlib
import queue
import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from clinreadnet.errors import BackendUnavailable, first_line
from clinreadnet.processor import processors
from clinreadnet.runtime.backends.graphs import check_interface, runtime_error, to_feed
from clinreadnet.runtime.scores import Outputs
from clinreadnet.spec import OUTPUTS, SIZE

_TELEMETRY = "openvino_telemetry"
_INPUT_DTYPES: dict[str, DTypeLike] = {"f32": np.float32, "f16": np.float16}


def installed_version() -> str | None:
    """Return the version of OpenVINO; None where it is not installed."""
    try:
        return str(import_openvino().__version__)
    except ImportError:
        return None


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry.

    By default the first import starts a process that reports to a server and stores an identifier
    in the user's home. OpenVINO does neither if the telemetry module is missing.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    silenced = _TELEMETRY not in sys.modules
    if silenced:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        if silenced:
            sys.modules.pop(_TELEMETRY, None)


class OpenVinoBackend:
    """A loaded graph, compiled for single slices. Slices of a batch run one after another.

    Larger batches take longer per slice, and OpenVINO 2026.3 and 2026.4 crash (segmentation fault)
    while compiling some of the graphs for 4, 6 or 8 slices. With a single thread 2026.4 crashes
    while fusing operators into snippets, which is therefore off.

    Attributes:
        dtype: float type of the graph's input.
    """

    def __init__(
        self,
        model: bytes,
        *,
        workers: int = 1,
        threads: int | None = None,
        products: str = "f32",
        file: str = "ONNX graph",
    ) -> None:
        """Load a graph and compile it.

        Args:
            model: bytes of the ``.onnx`` file, already checked.
            workers: number of concurrent runs, each with its share of the threads.
            threads: CPU threads of all runs together; None for OpenVINO's default.
            products: OpenVINO's name of the type of the products; the benchmarks also use "bf16".
            file: named in errors.

        Raises:
            BackendUnavailable: OpenVINO is not installed or rejects the graph, or the graph has
                other inputs or outputs.
        """
        try:
            openvino = import_openvino()
        except ImportError:
            raise BackendUnavailable(
                'openvino is not installed; run `pip install "clinreadnet[openvino]"`'
            ) from None
        self._file = file
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": products,
        }
        if workers > 1:
            settings["NUM_STREAMS"] = workers
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads * workers
        if (threads or processors() // workers) <= 1:
            settings["SNIPPETS_MODE"] = "DISABLE"
        core: Any = openvino.Core()
        try:
            graph: Any = core.read_model(model, b"")
        except Exception as error:  # openvino's exceptions share no base class
            raise self._refusal(error) from None
        inputs, outputs = graph.inputs, graph.outputs
        self.dtype = check_interface(
            file,
            [port.get_any_name() for port in inputs],
            _INPUT_DTYPES.get(inputs[0].get_element_type().get_type_name()) if inputs else None,
            [min(port.get_names() & set(OUTPUTS), default=port.get_any_name()) for port in outputs],
        )
        try:
            graph.reshape({"hu": [1, 1, SIZE, SIZE]})
            self._model: Any = core.compile_model(graph, "CPU", settings)
        except Exception as error:
            raise self._refusal(error) from None
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()  # idle inference requests

    def run(self, hu: ArrayLike) -> Outputs:
        """Run the network once; see `clinreadnet.runtime.backends.loading.Backend.run`."""
        feed = to_feed(hu, self.dtype)
        slices: list[list[NDArray[np.float32]]] = []
        try:
            try:
                request = self._idle.get_nowait()
            except queue.Empty:
                request = self._model.create_infer_request()
            for index in range(len(feed)):
                request.infer({"hu": feed[index : index + 1]}, share_inputs=True)
                tensors = [request.get_tensor(name).data for name in OUTPUTS]
                slices.append([np.array(data, dtype=np.float32) for data in tensors])
            self._idle.put(request)
        except Exception as error:
            raise runtime_error(error, "OpenVINO") from error
        return {
            name: np.concatenate(parts)
            for name, parts in zip(OUTPUTS, zip(*slices, strict=True), strict=True)
        }

    def close(self) -> None:
        """Free the graph. No run may be active."""
        self._model, self._idle = None, queue.SimpleQueue()

    def _refusal(self, error: Exception) -> BackendUnavailable:
        return BackendUnavailable(f"{self._file}: OpenVINO refuses it ({first_line(error)})")
