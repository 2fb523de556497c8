"""Run the checkpoint of a bundle with the package's CPU engine, a library without dependencies.

The library (kernels/cpu) is compiled when the package is installed, if there is a C++ compiler. Its
C interface is kernels/cpu/include/clinreadnet.h.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clinreadnet.errors import BackendError, BackendUnavailable, OutOfMemory
from clinreadnet.precision import CHECKPOINT_PRECISIONS
from clinreadnet.runtime.backends.graphs import to_feed
from clinreadnet.runtime.scores import Outputs
from clinreadnet.spec import FINE_GRADES, MAP_SIDE

ABI_VERSION = 1
"""Version of the library's interface that this module supports."""

INSTRUCTIONS_VARIABLE = "CLINREADNET_INSTRUCTIONS"
"""Environment variable that selects the instruction set, for tests."""

LIBRARY = Path(__file__).with_name(
    "libclinreadnet" + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
)
INSTALL = (
    "install g++ or clang++, then `pip install --force-reinstall --no-deps --no-binary clinreadnet "
    "clinreadnet`"
)

_ERROR_SIZE = 512
_NO_MEMORY = 4


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("precision", ctypes.c_uint32),
        ("threads", ctypes.c_int32),
        ("preset", ctypes.c_char_p),
        ("instructions", ctypes.c_char_p),
    )


def load_library(path: Path | None = None) -> ctypes.CDLL:
    """Load the engine's library and declare its functions.

    Args:
        path: path of the library; default the one that was compiled with the package.

    Raises:
        BackendUnavailable: the library was not compiled, does not load, or has another interface.
    """
    return _load(path or LIBRARY)


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    if not path.is_file():
        raise BackendUnavailable(f"the CPU engine was not compiled here; {INSTALL}")
    try:
        library = ctypes.CDLL(str(path))
        version = library.crn_abi_version()
    except (OSError, AttributeError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise BackendUnavailable(
            f"{path}: does not load; it may be for another processor than this "
            f"{platform.machine()} ({reason}); {INSTALL}"
        ) from None
    if version != ABI_VERSION:
        raise BackendUnavailable(
            f"{path}: has ABI version {version}, this package calls {ABI_VERSION}; {INSTALL}"
        )
    text, size, pointer = ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p
    library.crn_version.restype = library.crn_instructions.restype = text
    library.crn_is_fast.argtypes = [text, ctypes.c_uint32]
    library.crn_defaults.argtypes = [pointer]
    library.crn_defaults.restype = None
    library.crn_open.argtypes = [text, size, pointer, pointer, text, size]
    library.crn_score.argtypes = [ctypes.c_uint64, pointer, size, *4 * [pointer], text, size]
    library.crn_close.argtypes = [ctypes.c_uint64]
    library.crn_close.restype = None
    return library


def instructions(library: ctypes.CDLL | None = None) -> str:
    """Return the instruction set that the library uses on this processor, such as "avx2".

    Raises:
        BackendUnavailable: there is no library.
    """
    known: str = (library or load_library()).crn_instructions().decode()
    return os.environ.get(INSTRUCTIONS_VARIABLE) or known.split()[0]


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Use an instruction set for the engines that are opened inside the block."""
    before = os.environ.get(INSTRUCTIONS_VARIABLE)
    os.environ[INSTRUCTIONS_VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[INSTRUCTIONS_VARIABLE]
        else:
            os.environ[INSTRUCTIONS_VARIABLE] = before


def installed_version() -> str | None:
    """Return the version and the instruction set of the library; None without a library.

    Results depend only on these two, not on the processor.
    """
    try:
        library = load_library()
    except BackendUnavailable:
        return None
    return f"{library.crn_version().decode()} {instructions(library)}"


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
            threads: CPU threads of a run; None for all processors.
            file: named in errors.
            library: path of the library; default the one that was compiled with the package.

        Raises:
            BackendUnavailable: there is no library, the processor lacks its instructions, there are
                fewer processors than threads, or the engine rejects the checkpoint.
            OutOfMemory: the network does not fit in memory.
        """
        self._library = load_library(library)
        self._file, self._handle = file, ctypes.c_uint64()
        options = _Options()
        self._library.crn_defaults(ctypes.byref(options))
        options.precision = CHECKPOINT_PRECISIONS.index(precision)
        options.preset = None if preset is None else preset.encode()
        options.instructions = instructions(self._library).encode()
        if threads is not None:
            options.threads = threads
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        status = self._library.crn_open(
            checkpoint,
            len(checkpoint),
            ctypes.byref(options),
            ctypes.byref(self._handle),
            error,
            _ERROR_SIZE,
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
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        addresses = [array.ctypes.data for array in (feed, *outputs.values())]
        status = self._library.crn_score(
            self._handle, addresses[0], n, *addresses[1:], error, _ERROR_SIZE
        )
        if status:
            kind = OutOfMemory if status == _NO_MEMORY else BackendError
            raise kind(f"the CPU engine failed ({error.value.decode()})")
        return outputs

    def close(self) -> None:
        """Free the engine after active runs have ended."""
        self._library.crn_close(self._handle)
