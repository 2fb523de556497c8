"""CUDA graphs through the driver API, which pycuda does not wrap."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

from clinreadnet.runtime.gpu import load_driver

OUT_OF_MEMORY = 2
"""CUDA_ERROR_OUT_OF_MEMORY"""

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads' calls do not break it


CAPTURE_LOCK = threading.Lock()
"""Allows one capture at a time in this process."""

_NOT_SUPPORTED = 801
_CAPTURE_ERRORS = range(900, 910)  # CUDA_ERROR_STREAM_CAPTURE_*


class CudaGraphError(Exception):
    """A call of the driver failed; ``code`` is its CUresult."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"{call} failed with CUDA error {code}")
        self.code = code

    @property
    def of_capture(self) -> bool:
        """Whether the capture failed; the work can still run without a graph."""
        return self.code == _NOT_SUPPORTED or self.code in _CAPTURE_ERRORS


class CudaGraph:
    """A captured CUDA graph of one stream. It needs a current context."""

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        """Capture the work that ``enqueue`` adds to a stream.

        Args:
            stream: the CUDA stream's handle.
            enqueue: function that adds work to the stream. Its exceptions end the capture and are
                raised again.

        Raises:
            CudaGraphError: the capture failed.
        """
        self._driver = load_driver()
        self._stream = ctypes.c_void_p(stream)
        self._executable = ctypes.c_void_p()
        with CAPTURE_LOCK:
            graph = self._capture(enqueue)
        try:
            flags = ctypes.c_ulonglong(0)
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), graph, flags)
        finally:
            self._driver.cuGraphDestroy(graph)

    def _capture(self, enqueue: Callable[[], None]) -> ctypes.c_void_p:
        graph = ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_THREAD_LOCAL))
        try:
            enqueue()
        except BaseException:
            self._driver.cuStreamEndCapture(self._stream, ctypes.byref(graph))
            if graph:
                self._driver.cuGraphDestroy(graph)
            raise
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        return graph

    def launch(self) -> None:
        """Launch the graph on the stream.

        Raises:
            CudaGraphError: the launch failed.
        """
        self._call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free the graph."""
        self._driver.cuGraphExecDestroy(self._executable)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            raise CudaGraphError(name, code)
