"""The one table of backends: what each runs, where, and with which packages.

`clinreadnet.runtime.backends.ladder` has how each is loaded.
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
        library: whose version a record of its verification has in common with a machine.
        packages: that must be installed, as `clinreadnet doctor` calls them.
        extra: of ``pyproject.toml`` that brings them; empty if none does.
        on_cpu: whether it runs on the processor, and takes graphs that only processors run.
    """

    name: str
    title: str
    runs: Literal["onnx", "tensorrt-engine", "checkpoint"]
    library: str
    packages: tuple[str, ...]
    extra: str
    on_cpu: bool = False


_ROWS = (
    BackendRow(
        name="tensorrt",
        title="TensorRT",
        runs="tensorrt-engine",
        library="tensorrt",
        packages=("tensorrt", "pycuda"),
        extra="tensorrt",
    ),
    BackendRow(
        name="tensorrt-rtx",
        title="TensorRT-RTX",
        runs="tensorrt-engine",
        library="tensorrt-rtx",
        packages=("tensorrt_rtx bindings", "tensorrt_rtx libraries", "pycuda"),
        extra="tensorrt-rtx",
    ),
    BackendRow(
        name="onnxruntime-cuda",
        title="CUDA",
        runs="onnx",
        library="onnxruntime",
        packages=("onnxruntime-gpu",),
        extra="gpu",
    ),
    BackendRow(
        name="native",
        title="the CPU engine",
        runs="checkpoint",
        library="native",
        packages=(CPU_ENGINE,),
        extra="",  # it is compiled with the package
        on_cpu=True,
    ),
    BackendRow(
        name="onnxruntime-cpu",
        title="ONNX Runtime",
        runs="onnx",
        library="onnxruntime",
        packages=("onnxruntime or onnxruntime-gpu",),
        extra="cpu",
        on_cpu=True,
    ),
    BackendRow(
        name="openvino",
        title="OpenVINO",
        runs="onnx",
        library="openvino",
        packages=("openvino",),
        extra="openvino",
        on_cpu=True,
    ),
)

BACKENDS: dict[str, BackendRow] = {row.name: row for row in _ROWS}
"""Every backend by name, in the order in which a `Session` tries them."""
