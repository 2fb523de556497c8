"""Run an ONNX graph with ONNX Runtime on the CPU; functions shared with the CUDA backend.

ONNX Runtime is imported on first use.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from clinreadnet.errors import BackendUnavailable, first_line
from clinreadnet.runtime.backends.graphs import check_interface, runtime_error, to_feed
from clinreadnet.runtime.scores import Outputs
from clinreadnet.spec import OUTPUTS

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

_INPUT_DTYPES: dict[str, DTypeLike] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def offers_cuda() -> bool:
    """Return whether ONNX Runtime is installed with CUDA support."""
    try:
        import onnxruntime
    except ImportError:
        return False
    return CUDA in onnxruntime.get_available_providers()


def installed_version() -> str | None:
    """Return the version of ONNX Runtime; None if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return str(onnxruntime.__version__)


def import_onnxruntime(provider: str) -> Any:
    """Import ONNX Runtime and load the libraries of a provider.

    Args:
        provider: ``CPU`` or ``CUDA``.

    Raises:
        BackendUnavailable: ONNX Runtime is not installed or lacks the provider.
    """
    try:
        import onnxruntime
    except ImportError:
        raise BackendUnavailable(
            'onnxruntime is not installed; run `pip install "clinreadnet[cpu]"`'
            ' (or `"clinreadnet[gpu]"`)'
        ) from None
    if provider not in onnxruntime.get_available_providers():
        raise BackendUnavailable(
            f"this onnxruntime has no {provider}; run `pip uninstall onnxruntime` and "
            '`pip install "clinreadnet[gpu]"`'
        )
    # Loads CUDA and cuDNN from their pip packages, otherwise those of the system.
    if provider == CUDA and hasattr(onnxruntime, "preload_dlls"):
        # It prints missing libraries to standard output, where results belong.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    return onnxruntime


def start_session(
    onnxruntime: Any,
    model: bytes,
    provider: str,
    settings: Mapping[str, str],
    *,
    threads: int | None = None,
    file: str = "ONNX graph",
) -> tuple[Any, np.dtype[Any]]:
    """Start a session of ONNX Runtime; also return the float type of the graph's input.

    Args:
        onnxruntime: the module.
        model: verified bytes of the ``.onnx`` file.
        provider: ``CPU`` or ``CUDA``; there is no fallback.
        settings: options of the provider.
        threads: CPU threads of an operator; None for ONNX Runtime's default.
        file: named in errors.

    Raises:
        BackendUnavailable: ONNX Runtime rejects the graph, the provider does not start, or the
            graph has other inputs or outputs.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; the warnings are about its own optimizer
    # A memory pattern of all activations needs more memory and is not faster.
    options.enable_mem_pattern = False
    # Spinning idle threads would take CPU time from other work, such as reading files.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            model, options, providers=[(provider, dict(settings))]
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise BackendUnavailable(f"{file}: ONNX Runtime refuses it ({first_line(error)})") from None
    if session.get_providers()[0] != provider:
        raise BackendUnavailable(
            f"{provider} is installed but does not start here; run `clinreadnet doctor`"
        )
    ports = session.get_inputs()
    dtype = check_interface(
        file,
        [port.name for port in ports],
        _INPUT_DTYPES.get(ports[0].type) if ports else None,
        [port.name for port in session.get_outputs()],
    )
    return session, dtype


class OnnxRuntimeBackend:
    """A loaded graph on the CPU.

    Attributes:
        dtype: float type of the graph's input.
    """

    def __init__(
        self,
        model: bytes,
        *,
        threads: int | None = None,
        file: str = "ONNX graph",
    ) -> None:
        """Load a graph; arguments and errors as in `start_session`."""
        self._session, self.dtype = start_session(
            import_onnxruntime(CPU), model, CPU, {}, threads=threads, file=file
        )

    def run(self, hu: ArrayLike) -> Outputs:
        """Run the network once; see `clinreadnet.runtime.backends.loading.Backend.run`."""
        try:
            outputs = self._session.run(list(OUTPUTS), {"hu": to_feed(hu, self.dtype)})
        except Exception as error:
            raise runtime_error(error) from error
        return {
            name: np.asarray(output, dtype=np.float32)
            for name, output in zip(OUTPUTS, outputs, strict=True)
        }

    def close(self) -> None:
        """Free the graph. Do not call this during a run."""
        self._session = None
