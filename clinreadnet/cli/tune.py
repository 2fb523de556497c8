"""`clinreadnet tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import print_result
from clinreadnet.cli.options import Json
from clinreadnet.console import note, status
from clinreadnet.errors import InputError
from clinreadnet.files import check_output


def tune(
    out: Annotated[
        Path | None,
        typer.Option(help="File to write. Default: the file for this GPU."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--entry", help="Op, or part of it, to tune; repeatable. Default: all."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Time the candidates, but write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Time launch configurations of the kernels on this machine's GPU and write the fastest.

    A candidate is timed only if it compiles without spilling and agrees with the float64 reference.
    Times are geometric means over the shapes of the network's four stages, batch 8.

    Examples:
    - `clinreadnet tune`
    - `clinreadnet tune --entry sobel_stem --entry window_attention/float16 --dry-run --json`
    - `clinreadnet tune --out nvidia-l4.json`
    """
    if dry_run and out is not None:
        raise InputError("--dry-run and --out exclude each other")
    with status("Importing PyTorch"):
        from clinreadnet.kernels.launch import CONFIGS
        from clinreadnet.tuning.tune import print_tuning, write_tuning
        from clinreadnet.tuning.tune import tune as run

    if not dry_run:
        check_output(CONFIGS / "gpu.json" if out is None else out)
    tuning = run(only=only or ())
    if not dry_run:
        note(f"clinreadnet: wrote {write_tuning(tuning, out)}")
    print_result(tuning, as_json, print_tuning)
