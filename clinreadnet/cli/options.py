"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output where it exists.")]
Plot = Annotated[
    Path | None,
    typer.Option(help="Also draw each artifact's scores over the reference's (.png, .pdf, .svg)."),
]

# Options of train and ablate.
Data = Annotated[
    list[Path],
    typer.Option(help="LDCTIQA folder of labelled slices; repeatable.", show_default=False),
]
Preset = Annotated[str, typer.Option(help="Network: tiny, small or base.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the data.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Slices a step.")]
LearningRate = Annotated[float, typer.Option(min=0, help="Peak learning rate.")]
Crop = Annotated[int, typer.Option(help="Side of random crops: 256 (a quarter) or 512.")]
ValidationShare = Annotated[
    float, typer.Option(min=0, max=0.9, help="Share of the anatomies held out.")
]
Bf16 = Annotated[
    bool | None, typer.Option("--bf16/--no-bf16", help="Products in bfloat16; default on GPUs.")
]
