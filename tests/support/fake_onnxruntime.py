"""ONNX Runtime with its CUDA provider, as far as the runtime uses it, on arrays of NumPy.

A graph computes what `tiny_bundle.reference` does. Memory on a device can only be read and written
through `OrtValue`. Of CUDA graphs it does what the real provider does: one is captured for each
``gpu_graph_id`` and thread, by the second run of a shape; it then reads and writes where it was
captured, whatever is bound; and two threads must not run at a time.
"""

from __future__ import annotations

import threading
import types
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as real
from numpy.typing import NDArray

from support.tiny_bundle import reference

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@dataclass
class FakeCuda:
    """GPU of the provider, with counters and faults for tests.

    Attributes:
        capacity: bytes that may be allocated on each device.
        devices: number of GPUs.
        starts: whether the provider starts; otherwise sessions run on the CPU, like the real ones.
        captures: whether sessions support CUDA graphs.
        refuse_capture: batch sizes whose capture fails.
        fail_next: raised by the next run, once.
        settings: settings of the provider, for each session.
        preloaded: number of times that the libraries were loaded.
        replays: runs of a CUDA graph.
        allocated: bytes in use, by device.
        running: threads inside a session with CUDA graphs.
    """

    capacity: int = 2**30
    devices: int = 1
    starts: bool = True
    captures: bool = True
    refuse_capture: set[int] = field(default_factory=set)
    fail_next: Exception | None = None
    settings: list[dict[str, str]] = field(default_factory=list)
    preloaded: int = 0
    replays: int = 0
    allocated: dict[int, int] = field(default_factory=dict)
    running: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(1))

    def module(self) -> types.ModuleType:
        """Return what `import onnxruntime` gives."""
        module: Any = types.ModuleType("onnxruntime")
        module.__version__ = real.__version__
        module.get_available_providers = lambda: [CUDA, CPU]
        module.SessionOptions, module.RunOptions = real.SessionOptions, RunOptions
        module.preload_dlls = self._preload
        module.InferenceSession = self._session
        module.OrtValue = types.SimpleNamespace(
            ortvalue_from_shape_and_type=lambda shape, dtype, kind, device: OrtValue(
                self, shape, dtype, kind, device
            )
        )
        return module

    def _preload(self) -> None:
        print("cuDNN is not in a pip package")  # as the real one does, on standard output
        self.preloaded += 1

    def _session(self, model: bytes, options: Any, providers: list[Any]) -> Any:
        name, settings = providers[0]
        plain = real.InferenceSession(model, options, providers=[CPU])
        if name == CPU or not self.starts:
            return plain
        self.settings.append(settings)
        if settings.get("enable_cuda_graph") == "1" and not self.captures:
            raise RuntimeError(
                "This session cannot use the graph capture feature as requested by the user"
            )
        return InferenceSession(self, plain, settings)


class RunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


class OrtValue:
    """Memory on a device."""

    def __init__(self, cuda: FakeCuda, shape: Any, dtype: Any, kind: str, device: int) -> None:
        assert kind == "cuda"
        if device >= cuda.devices:
            raise RuntimeError("CUDA failure 101: invalid device ordinal")
        self._cuda, self.device, self._held = cuda, device, 0
        self.data: NDArray[Any] = np.full(shape, np.nan, dtype)
        used = cuda.allocated.get(device, 0) + self.data.nbytes
        if used > cuda.capacity:
            raise RuntimeError(f"Failed to allocate memory for requested buffer of size {used}")
        cuda.allocated[device] = used
        self._held = self.data.nbytes

    def __del__(self) -> None:
        if getattr(self, "_held", 0):
            self._cuda.allocated[self.device] -= self._held

    def update_inplace(self, data: NDArray[Any]) -> None:
        assert data.shape == self.data.shape and data.dtype == self.data.dtype
        assert data.flags.c_contiguous
        self.data[...] = data

    def numpy(self) -> NDArray[Any]:
        return self.data.copy()


class IOBinding:
    def __init__(self) -> None:
        self.inputs: dict[str, OrtValue] = {}
        self.outputs: dict[str, OrtValue] = {}

    def bind_ortvalue_input(self, name: str, value: OrtValue) -> None:
        self.inputs[name] = value

    def bind_ortvalue_output(self, name: str, value: OrtValue) -> None:
        self.outputs[name] = value


class InferenceSession:
    def __init__(self, cuda: FakeCuda, plain: Any, settings: dict[str, str]) -> None:
        self._cuda, self._plain = cuda, plain
        self._device = int(settings["device_id"])
        self._graphs = settings.get("enable_cuda_graph") == "1"
        self._captured: dict[tuple[int, str], IOBinding] = {}
        self._runs: dict[tuple[int, str], int] = {}
        self.get_inputs, self.get_outputs = plain.get_inputs, plain.get_outputs

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def io_binding(self) -> IOBinding:
        return IOBinding()

    def run_with_iobinding(self, binding: IOBinding, options: RunOptions) -> None:
        if self._cuda.fail_next is not None:
            error, self._cuda.fail_next = self._cuda.fail_next, None
            raise error
        values = [*binding.inputs.values(), *binding.outputs.values()]
        assert {value.device for value in values} == {self._device}
        if not self._graphs:
            return self._compute(binding)
        if not self._cuda.running.acquire(blocking=False):
            raise RuntimeError("two threads run a session with CUDA graphs")
        try:
            self._run_with_graphs(binding, options.entries.get("gpu_graph_id", "0"))
        finally:
            self._cuda.running.release()

    def _run_with_graphs(self, binding: IOBinding, name: str) -> None:
        key = (threading.get_ident(), name)
        if key in self._captured:
            self._cuda.replays += 1
            return self._compute(self._captured[key])
        n = len(binding.inputs["hu"].data)
        self._runs[key] = self._runs.get(key, 0) + 1
        if self._runs[key] > 1 and name != "-1":
            if n in self._cuda.refuse_capture:
                raise RuntimeError("CUDA failure 900: operation not permitted when capturing")
            kept = IOBinding()
            kept.inputs, kept.outputs = dict(binding.inputs), dict(binding.outputs)
            self._captured[key] = kept
        self._compute(binding)

    def _compute(self, binding: IOBinding) -> None:
        outputs = reference(binding.inputs["hu"].data[:, 0])
        for name, value in binding.outputs.items():
            value.data[...] = outputs[name]
