"""What machines have and which artifact suits them: doctor, tune, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clinreadnet.cli.common import Json, print_json
from clinreadnet.errors import InputError


def doctor(as_json: Json = False) -> None:
    """Say what this machine can build and run, and how to install what is missing.

    Examples:
    - `clinreadnet doctor`
    - `clinreadnet doctor --json`
    """
    from clinreadnet.runtime.doctor import diagnose, print_diagnosis

    diagnosis = diagnose()
    if as_json:
        print_json(diagnosis.to_dict())
    else:
        print_diagnosis(diagnosis, Console())


def tune(
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; default the one that launches on this GPU read."),
    ] = None,
    entry: Annotated[
        list[str] | None,
        typer.Option(help="Op, or part of it, to tune, repeatable; the others are kept."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Time, but write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Time the kernels' launch configurations on this machine's GPU and write the fastest.

    Each candidate must compile without spilling and agree with the float64 reference before it is
    timed. Times are geometric means over the shapes of the network's four stages, batch 8.

    Examples:
    - `clinreadnet tune`
    - `clinreadnet tune --entry sobel_stem --entry window_attention/float16 --dry-run --json`
    - `clinreadnet tune --out nvidia-l4.json`
    """
    if dry_run and out is not None:
        raise InputError("--dry-run and --out exclude each other")
    from clinreadnet.tuning.tune import print_tuning, write_tuning
    from clinreadnet.tuning.tune import tune as run

    tuning = run(only=entry or ())
    if not dry_run:
        print(f"clinreadnet: wrote {write_tuning(tuning, out)}", file=sys.stderr)
    if as_json:
        print_json(tuning.to_dict())
    else:
        print_tuning(tuning, Console())


def report(
    out: Annotated[
        Path | None, typer.Option(help="HTML page to write.", show_default=False)
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle to deploy; else $CLINREADNET_BUNDLE, else ./bundle."),
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of recorded runs.")] = Path("bench/results"),
    machine: Annotated[
        str | None, typer.Option(help="Only this folder of the results; default all.")
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            help="What accuracy may be lost: bounds on score, error, PLCC, SROCC or KROCC, "
            "joined by commas."
        ),
    ] = "score<=0.02",
    as_json: Json = False,
) -> None:
    """Say which artifact to deploy on each measured machine, and write it as one HTML page.

    Reads the newest recorded run of each machine (`make bench-record`) and the bundle's manifest;
    measures nothing. The page needs no network and no other file.

    Examples:
    - `clinreadnet report --out report.html`
    - `clinreadnet report --budget "score<=0.02,SROCC<=0.001" --json`
    """
    from clinreadnet.report.page import DeploymentReport
    from clinreadnet.scoring.series import default_bundle

    made = DeploymentReport(bundle or default_bundle(), results, budget=budget, machine=machine)
    if out is not None:
        made.write(out)
        print(f"clinreadnet: wrote {out}", file=sys.stderr)
    if as_json:
        print_json(made.to_dict())
    else:
        for chosen in made.recommendations:
            print("\n".join(chosen.lines()))
