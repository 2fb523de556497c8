"""Run one ONNX graph of a bundle with OpenVINO on the CPU, in float32, or in 8 bits what is int8.

OpenVINO fuses more of the graph than ONNX Runtime. It is asked for float32 products: on processors
with bfloat16 units it would otherwise take bfloat16, which is outside of float32's budget. The
quantised products of an int8 graph stay in 8 bits. It is imported on first use.
"""

from __future__ import annotations

import importlib
import queue
import sys
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from clinreadnet.errors import BackendUnavailable, first_line
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

    The first import would report itself to a server of its maker from a process of its own, and
    leave an identity in the user's home. Without the telemetry's module OpenVINO does neither.

    Raises:
        ImportError: it is not installed.
    """
    silenced = _TELEMETRY not in sys.modules
    if silenced:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        if silenced:
            sys.modules.pop(_TELEMETRY, None)


@dataclass(frozen=True)
class _Compiled:
    """A graph compiled for one size of a batch, and its requests that no thread runs now."""

    model: Any
    idle: queue.SimpleQueue[Any]


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
    ) -> None:
        """Load a graph and compile it for one size of a batch.

        Args:
            model: bytes of the ``.onnx`` file, already checked.
            batch: slices of a run to compile for now.
            workers: runs at the same time, each on its share of the threads.
            threads: CPU threads of all runs together; None for OpenVINO's choice.
            products: type of the products, as OpenVINO names it; the bench measures "bf16" too.
            file: named in errors.

        Raises:
            BackendUnavailable: OpenVINO is not installed or refuses the graph, or the graph is not
                ours.
        """
        try:
            openvino = import_openvino()
        except ImportError:
            raise BackendUnavailable(
                'openvino is not installed; run `pip install "clinreadnet[openvino]"`'
            ) from None
        self._core: Any = openvino.Core()
        self._file = file
        self._settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": products,
            # OpenVINO 2026.3 and 2026.4 end the process with a segmentation fault when they compile
            # some of our graphs for 4, 6 or 8 slices with generated kernels ("snippets").
            "SNIPPETS_MODE": "DISABLE",
        }
        if workers > 1:
            self._settings["NUM_STREAMS"] = workers
        if threads is not None:
            self._settings["INFERENCE_NUM_THREADS"] = threads * workers
        self._compiled: dict[int, _Compiled] = {}
        self._compiling = threading.Lock()
        try:
            self._graph: Any = self._core.read_model(model, b"")
        except Exception as error:  # openvino's exceptions share no base class
            raise self._refusal(error) from None
        inputs, found = self._graph.inputs, self._graph.outputs
        self.dtype = check_interface(
            file,
            [port.get_any_name() for port in inputs],
            _INPUT_DTYPES.get(inputs[0].get_element_type().get_type_name()) if inputs else None,
            [min(port.get_names() & set(OUTPUTS), default=port.get_any_name()) for port in found],
        )
        try:
            self._compile(batch)
        except Exception as error:
            raise self._refusal(error) from None

    def run(self, hu: ArrayLike) -> Outputs:
        """Run the network once; see `clinreadnet.runtime.backends.ladder.Backend.run`."""
        feed = to_feed(hu, self.dtype)
        try:
            compiled = self._compile(len(feed))
            try:
                request = compiled.idle.get_nowait()
            except queue.Empty:
                request = compiled.model.create_infer_request()
            request.infer({"hu": feed}, share_inputs=True)
            outputs = {
                name: np.array(request.get_tensor(name).data, dtype=np.float32) for name in OUTPUTS
            }
            compiled.idle.put(request)
        except Exception as error:
            raise runtime_error(error, "OpenVINO") from error
        return outputs

    def close(self) -> None:
        """Free the graph. No run may be active."""
        self._compiled.clear()
        self._graph = self._core = None

    def _compile(self, batch: int) -> _Compiled:
        with self._compiling:
            if batch not in self._compiled:
                graph = self._graph.clone()
                graph.reshape({"hu": [batch, 1, SIZE, SIZE]})
                model = self._core.compile_model(graph, "CPU", self._settings)
                self._compiled[batch] = _Compiled(model, queue.SimpleQueue())
            return self._compiled[batch]

    def _refusal(self, error: Exception) -> BackendUnavailable:
        return BackendUnavailable(f"{self._file}: OpenVINO refuses it ({first_line(error)})")
