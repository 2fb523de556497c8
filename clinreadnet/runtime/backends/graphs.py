"""Functions shared by the backends that run ONNX graphs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from clinreadnet.errors import BackendError, BackendUnavailable, DeviceLost, OutOfMemory, first_line
from clinreadnet.spec import OUTPUTS

# These libraries raise a single type of exception. The words in the message tell the cause.
_MEMORY = re.compile(
    r"bad_alloc|out of memory|failed to allocate memory|CUDA (error|failure) 2\b", re.I
)
_LOST = re.compile(r"CUDA (error|failure) (46|100|214|7\d\d|999)\b", re.I)


def check_interface(
    file: str,
    inputs: Sequence[str],
    dtype: DTypeLike | None,
    outputs: Sequence[str],
) -> np.dtype[Any]:
    """Check the inputs and outputs of a graph; return the float type of its input.

    Args:
        file: file name for error messages.
        inputs: names of the graph's inputs.
        dtype: type of the first input; None if it is not a float type.
        outputs: names of the graph's outputs.

    Raises:
        BackendUnavailable: the graph has other inputs or outputs.
    """
    if list(inputs) != ["hu"] or dtype is None:
        raise BackendUnavailable(f"{file}: not a ClinReadNet graph (its input is not float `hu`)")
    if set(outputs) != set(OUTPUTS):
        raise BackendUnavailable(
            f"{file}: not a ClinReadNet graph (its outputs are {list(outputs)})"
        )
    return np.dtype(dtype)


def to_feed(hu: ArrayLike, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return slices as a contiguous array of the type of a graph's input."""
    with np.errstate(over="ignore"):  # the graph clips infinity too
        return np.ascontiguousarray(hu, dtype=dtype)


def runtime_error(error: Exception, library: str = "ONNX Runtime") -> BackendError:
    """Convert an exception of a library to an error of this package, by its message."""
    if isinstance(error, BackendError):
        return error
    message = str(error)
    kind = (
        OutOfMemory
        if isinstance(error, MemoryError) or _MEMORY.search(message)
        else DeviceLost
        if _LOST.search(message)
        else BackendError
    )
    return kind(f"{library} failed ({first_line(error)})")
