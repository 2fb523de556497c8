"""`clinreadnet check-kernels`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import check_printed, print_json, row_writer
from clinreadnet.cli.options import Json, Rows
from clinreadnet.console import Output, status
from clinreadnet.errors import CheckFailed, counted


def check_kernels(
    folder: Annotated[
        Path, typer.Argument(help="Folder that export-kernels wrote.", show_default=False)
    ],
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Run cubin and PTX files on this machine's GPU.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Beginning of the files to run; repeatable. Default: all."),
    ] = None,
    rows: Rows = None,
    as_json: Json = False,
) -> None:
    """Run exported kernels and compare them with the reference.

    The PTX files run on the CPU, and no GPU is needed. The error of each output must be within the
    budget of its type, and no thread may read or write where it must not. With --gpu, the driver
    runs cubin and PTX files, and three launches must give the same bits. Exit status 1: a file
    fails.

    Examples:
    - `clinreadnet check-kernels kernels`
    - `clinreadnet check-kernels kernels --json`
    - `clinreadnet check-kernels kernels --gpu --only mlp`
    """
    printed = check_printed({"rows": rows}, as_json)
    with status("Importing PyTorch"):
        from clinreadnet.export.check_kernels import check_folder, print_checked

    write = row_writer(rows)
    results = check_folder(folder, gpu, only or (), lambda result: write(asdict(result)))
    if as_json:
        print_json({"kernels": [asdict(result) for result in results]})
    elif not printed:
        output = Output()
        for result in results:
            print_checked(result, output)
    failed = [result.file for result in results if result.failure]
    if failed:
        raise CheckFailed(
            f"{counted(len(failed), 'file', len(results), verb='fails')}: {', '.join(failed)}"
        )
