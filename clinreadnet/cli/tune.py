"""`clinreadnet tune`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import check_printed, print_result, row_writer, write_each
from clinreadnet.cli.options import Json, Rows
from clinreadnet.console import note, status
from clinreadnet.errors import InputError
from clinreadnet.files import check_output


def tune(
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; its other entries are kept. Default: this GPU's."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--entry", help="Op, or part of it, to tune; repeatable. Default: all."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Time the candidates, but write nothing.")
    ] = False,
    candidates: Annotated[
        int | None,
        typer.Option(min=1, help="Time at most this many of an entry, chosen from machine code."),
    ] = None,
    rows: Rows = None,
    as_json: Json = False,
) -> None:
    """Time launch configurations of the kernels on this machine's GPU and write the fastest.

    A candidate is timed only if it compiles without spilling and agrees with the float64 reference.
    Times are geometric means over the shapes of the network's four stages, with inputs in the L2
    cache: batch 8, and for the small, medium and large entries of fused_linear batch 1, 8 and 64.
    --candidates compiles all candidates in parallel, counts their instructions, and times the most
    promising.

    Examples:
    - `clinreadnet tune`
    - `clinreadnet tune --entry sobel_stem --entry window_attention/float16 --dry-run --json`
    - `clinreadnet tune --out nvidia-l4.json --candidates 8 --rows trials.jsonl`
    """
    if dry_run and out is not None:
        raise InputError("--dry-run and --out exclude each other")
    printed = check_printed({"out": out, "rows": rows}, as_json)
    with status("Importing PyTorch"):
        from clinreadnet.kernels.launch import CONFIGS
        from clinreadnet.tuning.tune import print_tuning, write_tuning
        from clinreadnet.tuning.tune import tune as run

    if not dry_run:
        check_output(CONFIGS / "gpu.json" if out is None else out)
    write = row_writer(rows)
    tuning = run(
        only=only or (),
        most=candidates,
        base=out if out is not None and out.exists() else None,
        tried=lambda keys, trial: write({"entry": "/".join(keys), **asdict(trial)}),
    )

    def write_configs() -> None:
        if not dry_run:
            note(f"clinreadnet: wrote {write_tuning(tuning, out)}")

    write_each(write_configs, lambda: print_result(tuning, as_json, print_tuning, printed=printed))
