"""`clinreadnet check-kernels`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import print_json
from clinreadnet.cli.options import Json
from clinreadnet.console import Output, status
from clinreadnet.errors import CheckFailed, counted


def check_kernels(
    folder: Annotated[
        Path, typer.Argument(help="Folder that export-kernels wrote.", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Run the PTX files of exported kernels on the CPU, and compare them with the reference.

    No GPU is needed. The error of each output must be within the budget of its type, and no thread
    may read or write where it must not. Cubin files are not run. Exit status 1: a file fails.

    Examples:
    - `clinreadnet check-kernels kernels`
    - `clinreadnet check-kernels kernels --json`
    """
    with status("Importing PyTorch"):
        from clinreadnet.export.check_kernels import check_folder, print_checked

    results = check_folder(folder)
    if as_json:
        print_json({"kernels": [result.to_dict() for result in results]})
    else:
        print_checked(results, Output())
    failed = [result.file for result in results if result.failure]
    if failed:
        raise CheckFailed(
            f"{counted(len(failed), 'file', len(results), verb='fails')}: {', '.join(failed)}"
        )
