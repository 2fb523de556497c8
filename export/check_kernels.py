"""Run exported kernels and compare them with the reference of each op.

On the CPU, the PTX machine (`clinreadnet.kernels.ptx`) runs the PTX files. It is also a sanitizer:
it detects accesses out of bounds, races and reads of uninitialised memory. On a GPU, the driver
loads and runs machine code and PTX.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from clinreadnet.console import Output, progress_bar
from clinreadnet.errors import InputError, first_line
from clinreadnet.export.gpu_launch import DriverError, GpuLauncher
from clinreadnet.files import read_regular
from clinreadnet.kernels.ptx.cases import Case, cases
from clinreadnet.kernels.ptx.errors import PtxError
from clinreadnet.kernels.ptx.launch import Kernel, bits_of, launch
from clinreadnet.runtime.bundle.files import digest

INDEX_NAME = "kernels.json"
LARGEST = 64 * 2**20
"""Largest size of a file in bytes. The largest PTX of a preset has about 1 MB."""
NO_PTX = "no PTX file to run; run `clinreadnet export-kernels --format ptx`"
NOTHING_FOR_THE_GPU = "no file that this GPU can load; run `clinreadnet export-kernels --target`"
LAUNCHES = 3
"""Number of launches of each case on a GPU, whose outputs must be equal bit for bit."""

Run = Callable[[Kernel, Case], Tensor]
"""Function that runs a kernel on a case and returns its output.

Raises `_Failed` if it cannot be trusted.
"""


class _Failed(Exception):
    """A run failed. The message has the reason."""


@dataclass(frozen=True)
class CheckedKernel:
    """Result of a file.

    Attributes:
        file: name of the file.
        error_over_budget: error relative to the budget, by case; at most 1 to pass.
        failure: reason of a failure; None if the file passes.
    """

    file: str
    error_over_budget: Mapping[str, float]
    failure: str | None


def read_kernels(
    folder: str | os.PathLike[str], kinds: Sequence[str] = ("ptx",), only: Sequence[str] = ()
) -> list[Kernel]:
    """Read the kernels of a folder from `clinreadnet export-kernels`.

    Args:
        folder: folder with ``kernels.json``.
        kinds: formats to read.
        only: beginnings of file names; empty for all files.

    Raises:
        InputError: the folder or a file does not exist, or the index cannot be read.
    """
    index = Path(folder) / INDEX_NAME
    if not index.exists():
        raise InputError(
            f"{index}: missing; name a folder that `clinreadnet export-kernels --out` made"
        )
    content = read_regular(index, LARGEST)
    try:
        entries = [
            item
            for item in json.loads(content)["kernels"]
            if item["kind"] in kinds and str(item["file"]).startswith(tuple(only) or "")
        ]
        names = [str(item["file"]) for item in entries]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(f"{index}: not an index of kernels ({first_line(error)})") from None
    if outside := [name for name in names if Path(name).name != name]:
        raise InputError(f"{index}: {outside[0]!r} is not the name of a file in the folder")
    return [
        Kernel(entry, read_regular(Path(folder) / name, LARGEST))
        for entry, name in zip(entries, names, strict=True)
    ]


def check_folder(
    folder: str | os.PathLike[str],
    gpu: bool = False,
    only: Sequence[str] = (),
    done: Callable[[CheckedKernel], None] = lambda result: None,
) -> list[CheckedKernel]:
    """Run the files of a folder: PTX on the CPU, what the GPU can load on a GPU.

    Args:
        folder: folder from `clinreadnet export-kernels`.
        gpu: run on this machine's GPU.
        only: beginnings of file names to run; empty for all files.
        done: function that is called with each result as soon as it is known.

    Returns:
        A result for each file, in the order of ``kernels.json``.

    Raises:
        InputError: as in `read_kernels`, there is no file to run, or an entry cannot be launched.
        BackendUnavailable: there is no GPU to run on.
    """
    results = []
    with _runner(gpu) as (run, takes), progress_bar() as bar:
        kinds = ("cubin", "ptx") if gpu else ("ptx",)
        kernels = [kernel for kernel in read_kernels(folder, kinds, only) if takes(kernel)]
        if not kernels:
            raise InputError(f"{Path(folder)}: {NOTHING_FOR_THE_GPU if gpu else NO_PTX}")
        task = bar.add_task("Running kernels", total=len(kernels))
        for kernel in kernels:
            try:
                result = _check(kernel, run)
            except (ValueError, KeyError, TypeError, StopIteration) as error:
                raise InputError(
                    f"{Path(folder) / INDEX_NAME}: {kernel.file} cannot be launched as it says "
                    f"({type(error).__name__} {first_line(error)})"
                ) from None
            results.append(result)
            done(result)
            bar.advance(task)
    return results


@contextmanager
def _runner(on_gpu: bool) -> Iterator[tuple[Run, Callable[[Kernel], bool]]]:
    """Return a function that runs a case, and a function that says whether a file can be run."""
    if not on_gpu:
        yield _run_on_cpu, lambda kernel: True
        return
    stopped = ""  # the file that stopped the GPU

    def run(kernel: Kernel, case: Case) -> Tensor:
        nonlocal stopped
        if stopped:
            raise _Failed(f"not run: {stopped} stopped the GPU for this process")
        try:
            first, *others = gpu.launch(kernel, case.tensors, case.sizes, LAUNCHES)
        except DriverError as error:
            stopped = kernel.file if error.stopped else ""
            raise _Failed(f"{case.name}: {error}") from None
        if any(bits_of(first).tobytes() != bits_of(other).tobytes() for other in others):
            raise _Failed(f"{case.name}: the outputs of {LAUNCHES} launches differ")
        return first

    with GpuLauncher() as gpu:
        yield run, gpu.takes


def _run_on_cpu(kernel: Kernel, case: Case) -> Tensor:
    try:
        return launch(kernel, case.tensors, case.sizes).out
    except PtxError as error:
        raise _Failed(first_line(error)) from None
    except (AttributeError, IndexError) as error:
        raise _Failed(
            f"an instruction has operands of another kind ({first_line(error)})"
        ) from None


def _check(kernel: Kernel, run: Run) -> CheckedKernel:
    errors: dict[str, float] = {}
    failures = []
    if digest(kernel.code) != kernel.entry["sha256"]:
        failures.append(f"SHA-256 is not the one in {INDEX_NAME}")
    try:
        for case in cases(kernel):
            out = run(kernel, case)
            errors[case.name] = case.over_budget(out.reshape(case.expected.shape))
            if not errors[case.name] <= 1:
                failures.append(f"{case.name}: error is {errors[case.name]:.3g} of its budget")
    except _Failed as error:
        failures.append(str(error))
    return CheckedKernel(kernel.file, errors, "; ".join(failures) or None)


def print_checked(result: CheckedKernel, output: Output) -> None:
    """Print a line for a file."""
    worst = max(result.error_over_budget.values(), default=float("nan"))
    passed = f"passed, error {100 * worst:.0f} % of its budget"
    output.print(f"{result.file}: {f'FAILED: {result.failure}' if result.failure else passed}")
