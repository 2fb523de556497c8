"""Load the library of the CPU engine, which has no dependencies.

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

from clinreadnet.errors import BackendUnavailable

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

ERROR_SIZE = 512
"""Bytes that hold every error text of the library."""


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
        if version == ABI_VERSION:
            _declare(library)
    except OSError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise BackendUnavailable(
            f"{path}: does not load; it may be for another processor than this "
            f"{platform.machine()} ({reason}); {INSTALL}"
        ) from None
    except AttributeError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise BackendUnavailable(f"{path}: is of another version ({reason}); {INSTALL}") from None
    if version != ABI_VERSION:
        raise BackendUnavailable(
            f"{path}: has ABI version {version}, this package calls {ABI_VERSION}; {INSTALL}"
        )
    return library


def _declare(library: ctypes.CDLL) -> None:
    text, size, pointer = ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p
    library.crn_version.restype = library.crn_instructions.restype = text
    library.crn_is_fast.argtypes = [text, ctypes.c_uint32]
    library.crn_defaults.argtypes = [pointer]
    library.crn_defaults.restype = None
    library.crn_open.argtypes = [text, size, pointer, pointer, text, size]
    library.crn_score.argtypes = [ctypes.c_uint64, pointer, size, *4 * [pointer], text, size]
    number = ctypes.c_uint32
    library.crn_survey.argtypes = [pointer, number, text, number, number, pointer, text, size]
    library.crn_close.argtypes = [ctypes.c_uint64]
    library.crn_close.restype = None


def instructions(library: ctypes.CDLL | None = None) -> str:
    """Return the instruction set that the library uses on this processor, such as "avx2".

    Raises:
        BackendUnavailable: there is no library, or ``CLINREADNET_INSTRUCTIONS`` names an
            instruction set that the library or the processor lacks.
    """
    known: str = (library or load_library()).crn_instructions().decode()
    name = os.environ.get(INSTRUCTIONS_VARIABLE) or known.split()[0]
    if name not in known.split():
        raise BackendUnavailable(
            f"{INSTRUCTIONS_VARIABLE}={name}: this library or processor lacks these instructions "
            f"and has {known}; unset it"
        )
    return name


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


def engine_version() -> str | None:
    """Return the version and the instruction set of the library; None if it cannot be used.

    Results depend only on these two, not on the processor.
    """
    try:
        library = load_library()
        return f"{library.crn_version().decode()} {instructions(library)}"
    except BackendUnavailable:
        return None


def remedy() -> str:
    """Return the command that makes the library usable where `engine_version` is None."""
    try:
        load_library()
    except BackendUnavailable:
        return INSTALL
    return f"unset {INSTRUCTIONS_VARIABLE}" if os.environ.get(INSTRUCTIONS_VARIABLE) else INSTALL
