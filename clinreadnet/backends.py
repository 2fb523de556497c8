"""The one table of backends: what each runs, where, and with which packages.

`clinreadnet.runtime.backends.loading` has how each is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CPU_ENGINE = "CPU engine"
"""The package's own library, as `clinreadnet doctor` calls it."""


@dataclass(frozen=True)
class BackendRow:
    """One row of the table.

    Attributes:
        name: on the command line and in records.
        title: what scores, in a sentence.
        runs: kind of the artifacts that it runs, as manifests call it.
        packages: that must be installed, as `clinreadnet doctor` calls them.
        extra: of ``pyproject.toml`` that brings them; empty if none does.
        package: whose version a record of its verification has in common with a machine; by
            default called as the backend.
        on_cpu: whether it runs on the processor, and takes graphs that only processors run.
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
        """The package, as records name it."""
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
