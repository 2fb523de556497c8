"""Run one ONNX graph of a bundle with ONNX Runtime, which is imported on first use."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from clinreadnet.errors import (
    BackendError,
    BackendUnavailable,
    DeviceLost,
    OutOfMemory,
    first_line,
)
from clinreadnet.runtime.scores import Outputs
from clinreadnet.spec import OUTPUTS

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

_CUDA_SETTINGS = {
    # TF32 is CUDA's default for float32 and misses the fp32 budget.
    "use_tf32": "0",
    # The default measures every algorithm again for each new batch size.
    "cudnn_conv_algo_search": "HEURISTIC",
}

_INPUT_DTYPES: dict[str, DTypeLike] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


# ONNX Runtime's exceptions do not tell the causes apart; its messages contain these words.
_MEMORY = re.compile(
    r"bad_alloc|out of memory|failed to allocate memory|CUDA (error|failure) 2\b", re.I
)
_LOST = re.compile(r"CUDA (error|failure) (46|100|214|7\d\d|999)\b", re.I)


def offers_cuda() -> bool:
    """Return whether ONNX Runtime is installed with CUDA."""
    try:
        import onnxruntime
    except ImportError:
        return False
    return CUDA in onnxruntime.get_available_providers()


def installed_version() -> str | None:
    """Return the version of ONNX Runtime; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return str(onnxruntime.__version__)


class OnnxRuntimeBackend:
    """One loaded graph.

    Attributes:
        provider: the execution provider that runs it.
        dtype: float type of the graph's input.
    """

    def __init__(
        self,
        model: bytes,
        *,
        provider: str = CPU,
        threads: int | None = None,
        file: str = "ONNX graph",
        outputs: Sequence[str] = OUTPUTS,
    ) -> None:
        """Load a graph.

        Args:
            model: bytes of the ``.onnx`` file, already checked.
            provider: ``CPU`` or ``CUDA``; there is no fallback.
            threads: CPU threads of one operator; None for ONNX Runtime's choice.
            file: named in errors.
            outputs: names of the outputs that the graph must have.

        Raises:
            BackendUnavailable: ONNX Runtime is not installed, does not offer the provider, or
                refuses the graph.
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
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only; the warnings are about its own optimizer
        # One block for all activations takes more memory and is not faster.
        options.enable_mem_pattern = False
        # Spinning idle threads would take CPU time from other work, such as reading files.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        settings: dict[str, str] = {}
        if provider == CUDA:
            settings = _CUDA_SETTINGS
            # Finds CUDA and cuDNN in their pip packages; the system's are used without them.
            if hasattr(onnxruntime, "preload_dlls"):
                # It prints what it does not find; a table or JSON may be on standard output.
                with contextlib.redirect_stdout(io.StringIO()):
                    onnxruntime.preload_dlls()
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model, options, providers=[(provider, settings)]
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise BackendUnavailable(
                f"{file}: ONNX Runtime refuses it ({first_line(error)})"
            ) from None
        self.provider: str = self._session.get_providers()[0]
        if self.provider != provider:
            raise BackendUnavailable(
                f"{provider} is installed but does not start here; run `clinreadnet doctor`"
            )
        inputs = self._session.get_inputs()
        names = tuple(output.name for output in self._session.get_outputs())
        if [i.name for i in inputs] != ["hu"] or inputs[0].type not in _INPUT_DTYPES:
            raise BackendUnavailable(
                f"{file}: not a ClinReadNet graph (its input is not float `hu`)"
            )
        if set(names) != set(outputs):
            raise BackendUnavailable(
                f"{file}: not a ClinReadNet graph (its outputs are {list(names)})"
            )
        self._outputs = list(outputs)
        self.dtype: np.dtype[Any] = np.dtype(_INPUT_DTYPES[inputs[0].type])

    def run(self, hu: ArrayLike) -> Outputs:
        """Run the graph once. Any number of threads may call this.

        Args:
            hu: [n, 1, 512, 512], Hounsfield units, any real dtype.

        Returns:
            ``score`` [n], ``probs`` [n, 21], ``quality_map`` [n, 16, 16], ``novelty`` [n], float32.

        Raises:
            OutOfMemory: this batch does not fit in memory.
            DeviceLost: the GPU failed.
            BackendError: ONNX Runtime failed for another reason.
        """
        with np.errstate(over="ignore"):  # the graph clips infinity too
            feed = {"hu": np.ascontiguousarray(hu, dtype=self.dtype)}
        try:
            outputs = self._session.run(self._outputs, feed)
        except Exception as error:
            message = str(error)
            kind = (
                OutOfMemory
                if isinstance(error, MemoryError) or _MEMORY.search(message)
                else DeviceLost
                if _LOST.search(message)
                else BackendError
            )
            raise kind(f"ONNX Runtime failed ({first_line(error)})") from error
        return {
            name: np.asarray(output, dtype=np.float32)
            for name, output in zip(self._outputs, outputs, strict=True)
        }

    def close(self) -> None:
        """Free the graph. No run may be active."""
        self._session = None
