"""The table of backends: what each runs, on which processor, and with which packages.

`clinreadnet.runtime.backends.loading` loads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CPU_ENGINE = "CPU engine"
"""The package's own library, as named by `clinreadnet doctor`."""


@dataclass(frozen=True)
class BackendRow:
    """A row of the table.

    Attributes:
        name: name on the command line and in records.
        title: name for use in a sentence.
        runs: kind of artifact that it runs, as named in manifests.
        packages: packages that must be installed, as named by `clinreadnet doctor`.
        extra: extra of ``pyproject.toml`` that installs them; empty if there is none.
        package: package whose version must match for a verification record to apply; default: the
            name of the backend.
        on_cpu: whether it runs on the CPU, including graphs that only run there.
    """

    name: str
    title: str
    runs: Literal["onnx", "tensorrt-engine", "checkpoint"]
    packages: tuple[str, ...]
    extra: str
    package: str = ""
    on_cpu: bool = False

    @property
    def library(self) -> str:
        """The package's name in records."""
        return self.package or self.name


_RTX_PACKAGES = ("tensorrt_rtx bindings", "tensorrt_rtx libraries", "pycuda")
_ORT = ("onnxruntime or onnxruntime-gpu",)

_ROWS = (
    BackendRow("tensorrt", "TensorRT", "tensorrt-engine", ("tensorrt", "pycuda"), "tensorrt"),
    BackendRow("tensorrt-rtx", "TensorRT-RTX", "tensorrt-engine", _RTX_PACKAGES, "tensorrt-rtx"),
    BackendRow("onnxruntime-cuda", "CUDA", "onnx", ("onnxruntime-gpu",), "gpu", "onnxruntime"),
    # The library is compiled with the package.
    BackendRow("native", "the CPU engine", "checkpoint", (CPU_ENGINE,), "", on_cpu=True),
    BackendRow("onnxruntime-cpu", "ONNX Runtime", "onnx", _ORT, "cpu", "onnxruntime", on_cpu=True),
    BackendRow("openvino", "OpenVINO", "onnx", ("openvino",), "openvino", on_cpu=True),
)

BACKENDS: dict[str, BackendRow] = {row.name: row for row in _ROWS}
"""Every backend by name, in the order in which a `Session` tries them."""
