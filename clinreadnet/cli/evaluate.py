"""`clinreadnet evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from clinreadnet.cli.common import print_json
from clinreadnet.cli.options import Json, Plot
from clinreadnet.cli.verify import verify_bundle
from clinreadnet.errors import InputError


def evaluate(
    data: Annotated[
        Path, typer.Option(help="LDCTIQA folder of labelled slices.", show_default=False)
    ],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint; default the shipped one.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Measure each artifact of this bundle too, against the reference."),
    ] = None,
    plot: Plot = None,
    order: Annotated[
        bool,
        typer.Option("--order", help="Compare with the recorded degradations, not the labels."),
    ] = False,
    clean: Annotated[
        list[Path] | None,
        typer.Option(help="With --order: the slices that were degraded; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure PLCC, SROCC and KROCC of the reference network against labels.

    Intervals are 95 % bootstrap intervals over slices. Of a simulated folder the ceiling is shown
    too: what a perfect model of the noiseless quality would score. With --bundle, exit status 1
    means that an artifact is outside its budgets.

    Examples:
    - `clinreadnet evaluate --data LDCTIQAG2023_test --json`
    - `clinreadnet evaluate --data slices --bundle bundle --plot parity.png`
    - `clinreadnet evaluate --data degraded --order --clean series`
    """
    if order and bundle is not None:
        raise InputError("--order and --bundle exclude each other")
    if clean and not order:
        raise InputError("--clean goes with --order")
    if bundle is not None:
        verify_bundle(bundle, data, checkpoint, plot, as_json)
        return
    if plot is not None:
        raise InputError("--plot goes with --bundle")
    from clinreadnet.evaluation.labels import evaluate as measure
    from clinreadnet.evaluation.labels import table
    from clinreadnet.evaluation.order import evaluate_order, order_table

    result: Mapping[str, Any]
    if order:
        result = found = evaluate_order(data, checkpoint, clean or ())
        shown = order_table(found)
    else:
        result = metrics = measure(data, checkpoint)
        shown = table(metrics)
    if as_json:
        print_json(result)
    else:
        Console().print(shown)
