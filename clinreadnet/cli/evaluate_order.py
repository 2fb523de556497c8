"""`clinreadnet evaluate-order`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import print_json
from clinreadnet.cli.options import Checkpoint, Json
from clinreadnet.console import Output, status


def evaluate_order(
    data: Annotated[
        Path,
        typer.Option(help="Folder made by `simulate --anatomy`.", show_default=False),
    ],
    checkpoint: Checkpoint = None,
    clean: Annotated[
        list[Path] | None,
        typer.Option(help="Files or folders of the slices that were degraded; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that scores follow the known degradations of slices, independent of labels.

    Without --clean, denoised copies are compared with the scan of least noise.

    Examples:
    - `clinreadnet evaluate-order --data degraded`
    - `clinreadnet evaluate-order --data degraded --clean routine-dose-series --json`
    """
    with status("Importing PyTorch"):
        from clinreadnet.evaluation.order import evaluate_order as measure
        from clinreadnet.evaluation.order import order_table

    result = measure(data, checkpoint, clean or ())
    if as_json:
        print_json(result)
    else:
        Output().print(order_table(result))
