"""`clinreadnet export-kernels`."""

from __future__ import annotations

from typing import Annotated

import typer

from clinreadnet.cli.common import print_result
from clinreadnet.cli.options import Force, Json, NewFolder, Preset
from clinreadnet.console import status
from clinreadnet.files import check_output_folder


def export_kernels(
    out: NewFolder,
    formats: Annotated[
        list[str],
        typer.Option(
            "--format", metavar="cubin|ptx", help="What to write for each kernel; repeatable."
        ),
    ],
    targets: Annotated[
        list[str],
        typer.Option("--target", help="GPU architecture such as sm90; repeatable."),
    ],
    precisions: Annotated[
        list[str] | None,
        typer.Option("--precision", help="fp32, fp16 or bf16; repeatable. Default: all three."),
    ] = None,
    preset: Preset = "small",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compile the network's Triton kernels ahead of time, for a host that launches them itself.

    Writes one file for each kernel, precision, target and format, and `kernels.json`, which says
    how to launch them. No GPU is needed. Exit status 1: a kernel spills registers on a target, and
    nothing is written.

    Examples:
    - `clinreadnet export-kernels --out kernels --format cubin --target sm80 --target sm90`
    - `clinreadnet export-kernels --out kernels --format ptx --precision fp16 --target sm90`
    """
    check_output_folder(out, force=force)
    with status("Importing PyTorch"):
        from clinreadnet.export.kernels import export_kernels as compile_all
        from clinreadnet.export.kernels import print_kernels

    result = compile_all(
        out,
        formats=formats,
        targets=targets,
        precisions=precisions,
        preset=preset,
        force=force,
    )
    print_result(result, as_json, print_kernels)
