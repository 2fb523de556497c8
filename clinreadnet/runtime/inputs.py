"""Check arguments of a session: arrays, counts, budget and GPU index."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.data.plausibility import count_pixels, implausible
from clinreadnet.errors import InputError
from clinreadnet.processor import processors
from clinreadnet.runtime.gpu import find_gpus
from clinreadnet.spec import SIZE

_MOST_THREADS = 8
"""Threads above this number gain little: the memory is busy."""
_SLICES_A_THREAD = 8
"""To start a thread takes as long as to look at one or two slices."""


@contextmanager
def slice_threads(n: int, threads: int | None = None) -> Iterator[Callable[..., Iterator[Any]]]:
    """Provide ``map`` over n slices, which begins at once on threads if there are enough slices.

    At the end of the block, calls that have not begun are cancelled.

    Args:
        n: number of slices.
        threads: most threads; default one for each processor.
    """
    count = min(n // _SLICES_A_THREAD, _MOST_THREADS, threads or processors())
    if count < 2:
        yield map
        return
    from concurrent.futures import ThreadPoolExecutor  # few slices need none

    pool = ThreadPoolExecutor(count)

    def on_threads(work: Callable[..., Any], *columns: Sequence[Any]) -> Iterator[Any]:
        try:
            return pool.map(work, *columns)
        except RuntimeError:  # no thread can be started
            return map(work, *columns)

    try:
        yield on_threads
    finally:
        pool.shutdown(cancel_futures=True)


def check_slices(hu: NDArray[Any], *, values: bool = True) -> NDArray[Any]:
    """Check ``hu`` and return it as an array; arguments and errors as in `Session.score`.

    Without ``values``, only shape and dtype are checked.
    """
    if isinstance(hu, str | os.PathLike):
        raise InputError(f"hu={os.fspath(hu)!r}: a path; `score_files` reads files and folders")
    masked_arrays = sys.modules.get("numpy.ma")  # NumPy imports it when it is first used
    if masked_arrays is not None and masked_arrays.is_masked(hu):
        raise InputError("hu has masked pixels; fill them, with -1000 for air outside the scan")
    hu = np.asarray(hu)
    if hu.shape == (SIZE, SIZE):
        hu = hu[None]
    if hu.ndim != 3 or hu.shape[1:] != (SIZE, SIZE):
        raise InputError(
            f"hu has shape {list(hu.shape)}, expected [n, {SIZE}, {SIZE}] Hounsfield units, or "
            f"[{SIZE}, {SIZE}]"
        )
    if not len(hu):
        raise InputError(f"hu has shape {list(hu.shape)}: no slice; give one or more")
    if hu.dtype.kind not in "iuf":
        raise InputError(f"hu has dtype {hu.dtype}, expected integers or floats")
    # On threads this takes longer: a slice takes less than a thread waits for Python's lock.
    for index, image in enumerate(hu if values else ()):
        pixels = count_pixels(image)
        if not pixels.finite:
            raise InputError(f"hu[{index}] holds NaN or infinity")
        if reason := implausible(pixels):
            raw = "; raw pixels become HU by the header's rescale slope and intercept"
            raise InputError(
                f"hu[{index}] cannot be a CT slice in Hounsfield units: {reason}"
                f"{raw if pixels.low >= 0 else ''}"
            )
    return hu


def check_pixel_mm(
    pixel_mm: float | Sequence[float | None] | None, n: int
) -> Sequence[float | None]:
    """Return the pixel width of each of n slices; None if unknown.

    Raises:
        InputError: the argument is not a positive number, or a positive number for each slice.
    """
    sizes = list(pixel_mm) if isinstance(pixel_mm, Sequence | np.ndarray) else [pixel_mm] * n
    if len(sizes) != n:
        raise InputError(f"pixel_mm has {len(sizes)} values for {n} slices; give one for each")
    for size in sizes:
        if size is None:
            continue
        if not isinstance(size, int | float | np.floating) or not (0 < size < math.inf):
            raise InputError(f"pixel_mm={size!r}: not a width in mm above 0")
    return sizes


def check_whole(name: str, value: Any) -> None:
    """Check that a parameter is a whole number.

    Raises:
        InputError: the value is not a whole number. True and False are not accepted.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise InputError(f"{name}={value!r}: not a whole number")


def check_count(name: str, value: Any, most: int) -> None:
    """Check that a parameter is a whole number from 1 to ``most``.

    Raises:
        InputError: the value is not a whole number, or out of range.
    """
    check_whole(name, value)
    if value < 1:
        raise InputError(f"{name}={value}: must be 1 or more")
    if value > most:
        raise InputError(f"{name}={value}: at most {most}")


def check_budget(budget: float, fastest: bool) -> None:
    """Check the accuracy budget of ``fastest``.

    Raises:
        InputError: the budget is not a positive number, or ``fastest`` is not set.
    """
    if not isinstance(budget, int | float) or isinstance(budget, bool):
        raise InputError(f"budget={budget!r}: not a number")
    if not (math.isfinite(budget) and budget > 0):
        raise InputError(f"budget={budget:g}: not a relative error above 0, such as 1e-2")
    if not fastest:
        raise InputError(f"budget={budget:g}: only with `fastest`, which chooses a precision")


def check_device(device: int) -> None:
    """Check the index of a GPU. 0 is allowed without a GPU.

    Raises:
        InputError: there is no GPU with this index.
    """
    check_whole("device", device)
    if device == 0:
        return
    count = len(find_gpus())
    if not 0 <= device < count:
        there = ["no NVIDIA GPU is visible; leave it out", "one NVIDIA GPU is visible; it is 0"]
        many = f"{count} NVIDIA GPUs are visible; they are 0 to {count - 1}"
        raise InputError(f"device={device}: {there[count] if count < 2 else many}")
