"""`clinreadnet report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import print_json
from clinreadnet.cli.options import Bundle, Json
from clinreadnet.console import note


def report(
    out: Annotated[
        Path | None, typer.Option(help="HTML page to write.", show_default=False)
    ] = None,
    bundle: Bundle = None,
    results: Annotated[Path, typer.Option(help="Folder of recorded runs.")] = Path("bench/results"),
    machine: Annotated[
        str | None, typer.Option(help="Only this folder of the results. Default: all.")
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            help="Accuracy that may be lost: bounds on score, error, PLCC, SROCC or KROCC, "
            "separated by commas."
        ),
    ] = "score<=0.02",
    as_json: Json = False,
) -> None:
    """Recommend an artifact to deploy on each measured machine, and write an HTML report.

    The report uses the newest recorded run of each machine and the bundle's manifest. The runs lie
    in `bench/results` of the repository, where `make bench-record` writes them; elsewhere name
    their folder with --results. Nothing is measured. The page needs no network and no other file.

    Examples:
    - `clinreadnet report --out report.html`
    - `clinreadnet report --budget "score<=0.02,SROCC<=0.001" --json`
    """
    from clinreadnet.report.page import DeploymentReport
    from clinreadnet.runtime.bundle.default import default_bundle

    made = DeploymentReport(bundle or default_bundle(), results, budget=budget, machine=machine)
    if out is not None:
        made.write(out)
        note(f"clinreadnet: wrote {out}")
    if as_json:
        print_json(made.to_dict())
    else:
        for chosen in made.recommendations:
            print("\n".join(chosen.lines()))
