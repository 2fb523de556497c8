"""Run exported PTX files on the CPU and compare them with the reference of each op.

The PTX machine (`clinreadnet.kernels.ptx`) is also a sanitizer: it detects accesses out of bounds,
races and reads of uninitialised memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clinreadnet.console import Output, progress_bar
from clinreadnet.errors import InputError, first_line
from clinreadnet.files import read_regular
from clinreadnet.kernels.ptx.cases import cases, check
from clinreadnet.kernels.ptx.errors import PtxError
from clinreadnet.kernels.ptx.launch import Kernel
from clinreadnet.runtime.bundle.files import digest

INDEX_NAME = "kernels.json"
LARGEST = 64 * 2**20
"""Largest size of a file in bytes. The largest PTX of a preset has about 1 MB."""


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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


def read_kernels(folder: str | os.PathLike[str]) -> list[Kernel]:
    """Read the PTX kernels of a folder from `clinreadnet export-kernels`.

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
        entries = [item for item in json.loads(content)["kernels"] if item["kind"] == "ptx"]
        names = [str(item["file"]) for item in entries]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(f"{index}: not an index of kernels ({first_line(error)})") from None
    if outside := [name for name in names if Path(name).name != name]:
        raise InputError(f"{index}: {outside[0]!r} is not the name of a file in the folder")
    return [
        Kernel(entry, read_regular(Path(folder) / name, LARGEST))
        for entry, name in zip(entries, names, strict=True)
    ]


def check_folder(folder: str | os.PathLike[str]) -> list[CheckedKernel]:
    """Run every PTX file of a folder.

    Args:
        folder: folder from `clinreadnet export-kernels`.

    Returns:
        A result for each file, in the order of ``kernels.json``.

    Raises:
        InputError: as in `read_kernels`, there is no PTX file, or an entry cannot be launched.
    """
    kernels = read_kernels(folder)
    if not kernels:
        raise InputError(
            f"{Path(folder)}: no PTX file; run `clinreadnet export-kernels --format ptx`"
        )
    results: dict[str, CheckedKernel] = {}
    with progress_bar() as bar:
        task = bar.add_task("Running kernels", total=len(kernels))
        for kernel in kernels:
            try:
                results[kernel.file] = _check(kernel)
            except (ValueError, KeyError, TypeError, StopIteration) as error:
                raise InputError(
                    f"{Path(folder) / INDEX_NAME}: {kernel.file} cannot be launched as it says "
                    f"({type(error).__name__} {first_line(error)})"
                ) from None
            bar.advance(task)
    return list(results.values())


def _check(kernel: Kernel) -> CheckedKernel:
    errors: dict[str, float] = {}
    failures = []
    if digest(kernel.code) != kernel.entry["sha256"]:
        failures.append(f"SHA-256 is not the one in {INDEX_NAME}")
    try:
        for case in cases(kernel):
            errors[case.name] = check(kernel, case).over_budget
            if not errors[case.name] <= 1:
                failures.append(f"{case.name}: error is {errors[case.name]:.3g} of its budget")
    except PtxError as error:
        failures.append(first_line(error))
    except (AttributeError, IndexError) as error:
        failures.append(f"an instruction has operands of another kind ({first_line(error)})")
    return CheckedKernel(kernel.file, errors, "; ".join(failures) or None)


def print_checked(results: list[CheckedKernel], output: Output) -> None:
    """Print a line for each file."""
    for result in results:
        worst = max(result.error_over_budget.values(), default=float("nan"))
        passed = f"passed, error {100 * worst:.0f} % of its budget"
        output.print(f"{result.file}: {f'FAILED: {result.failure}' if result.failure else passed}")
