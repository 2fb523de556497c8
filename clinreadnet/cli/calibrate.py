"""`clinreadnet calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import check_printed, print_json
from clinreadnet.cli.options import Checkpoint, Json, LabelledFolder
from clinreadnet.console import note, status
from clinreadnet.errors import counted
from clinreadnet.files import check_output


def calibrate(
    data: LabelledFolder,
    out: Annotated[
        Path, typer.Option(help="Checkpoint to write (.safetensors).", show_default=False)
    ],
    checkpoint: Checkpoint = None,
    as_json: Json = False,
) -> None:
    """Fit the 90 % intervals of a checkpoint to your labels.

    Training fits them on its held-out slices. Other slices or other readers may need wider ones.
    Use slices that the network was not trained on, and measure the result on other slices.

    Examples:
    - `clinreadnet calibrate --data slices --out calibrated.safetensors`
    - `clinreadnet calibrate --data slices --checkpoint run/model.safetensors --out own.safetensors`
    """
    printed = check_printed({"out": out}, as_json)
    check_output(out, suffixes=(".safetensors",))
    with status("Importing PyTorch"):
        from clinreadnet.evaluation.intervals import calibrate_intervals

    calibration = calibrate_intervals(data, out, checkpoint)
    note(f"clinreadnet: wrote {out}")
    if as_json:
        print_json(calibration)
    elif not printed:
        print(
            f"{counted(calibration['slices'], 'slice')}: 90 % intervals cover "
            f"{calibration['before']:.1%} of "
            f"the labels before, {calibration['after']:.1%} after; "
            f"temperature {calibration['temperature']:.3f}"
        )
