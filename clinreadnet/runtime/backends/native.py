"""Run the checkpoint of a bundle with the package's CPU engine, a library without dependencies."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clinreadnet.errors import BackendError, BackendUnavailable, OutOfMemory
from clinreadnet.library import ERROR_SIZE, instructions, load_library
from clinreadnet.precision import CHECKPOINT_PRECISIONS
from clinreadnet.processor import processors
from clinreadnet.runtime.backends.graphs import to_feed
from clinreadnet.runtime.scores import Outputs
from clinreadnet.spec import FINE_GRADES, MAP_SIDE

_NO_MEMORY = 4


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("precision", ctypes.c_uint32),
        ("threads", ctypes.c_int32),
        ("preset", ctypes.c_char_p),
        ("instructions", ctypes.c_char_p),
    )


def is_fast(precision: str) -> bool:
    """Return whether a precision is faster than fp32 with the instruction set in use."""
    library = load_library()
    number = CHECKPOINT_PRECISIONS.index(precision)
    return bool(library.crn_is_fast(instructions(library).encode(), number))


class NativeBackend:
    """A loaded checkpoint. It is thread-safe."""

    def __init__(
        self,
        checkpoint: bytes,
        *,
        precision: str,
        preset: str | None = None,
        threads: int | None = None,
        file: str = "checkpoint",
        library: Path | None = None,
    ) -> None:
        """Load a checkpoint.

        Args:
            checkpoint: verified bytes of the ``.safetensors`` file.
            precision: one of ``CHECKPOINT_PRECISIONS``.
            preset: required preset of the checkpoint.
            threads: CPU threads of a run, at most one for each processor; None for all.
            file: named in errors.
            library: path of the library; default the one that was compiled with the package.

        Raises:
            BackendUnavailable: there is no library, the processor lacks its instructions, or the
                engine rejects the checkpoint.
            OutOfMemory: the network does not fit in memory.
        """
        self._library = load_library(library)
        self._file, self._handle = file, ctypes.c_uint64()
        options = _Options()
        self._library.crn_defaults(ctypes.byref(options))
        options.precision = CHECKPOINT_PRECISIONS.index(precision)
        options.preset = None if preset is None else preset.encode()
        options.instructions = instructions(self._library).encode()
        options.threads = processors() if threads is None else min(threads, processors())
        error = ctypes.create_string_buffer(ERROR_SIZE)
        status = self._library.crn_open(
            checkpoint,
            len(checkpoint),
            ctypes.byref(options),
            ctypes.byref(self._handle),
            error,
            ERROR_SIZE,
        )
        if status:
            kind = OutOfMemory if status == _NO_MEMORY else BackendUnavailable
            raise kind(f"{file}: the CPU engine refuses it ({error.value.decode()})")
        self.notes = [f"instructions {options.instructions.decode()}"]

    def run(self, hu: ArrayLike) -> Outputs:
        """Run the network once; see `clinreadnet.runtime.backends.loading.Backend.run`."""
        feed = to_feed(hu, np.dtype(np.float32))
        n = len(feed)
        outputs: dict[str, NDArray[Any]] = {
            "score": np.empty(n, np.float32),
            "probs": np.empty((n, FINE_GRADES), np.float32),
            "quality_map": np.empty((n, MAP_SIDE, MAP_SIDE), np.float32),
            "novelty": np.empty(n, np.float32),
        }
        error = ctypes.create_string_buffer(ERROR_SIZE)
        addresses = [array.ctypes.data for array in (feed, *outputs.values())]
        status = self._library.crn_score(
            self._handle, addresses[0], n, *addresses[1:], error, ERROR_SIZE
        )
        if status:
            kind = OutOfMemory if status == _NO_MEMORY else BackendError
            raise kind(f"the CPU engine failed ({error.value.decode()})")
        return outputs

    def close(self) -> None:
        """Free the engine after active runs have ended."""
        self._library.crn_close(self._handle)
