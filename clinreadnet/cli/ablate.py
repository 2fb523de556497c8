"""`clinreadnet ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import parse_duration, print_json
from clinreadnet.cli.options import (
    BatchSize,
    Bf16,
    Crop,
    Data,
    Epochs,
    Json,
    LearningRate,
    Preset,
    ValidationShare,
)


def ablate(
    data: Data,
    out: Annotated[
        Path, typer.Option(help="Folder of the runs and of the table.", show_default=False)
    ],
    test: Annotated[
        Path | None,
        typer.Option(help="LDCTIQA folder to measure on; default the held-out anatomies."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each network.")] = 3,
    preset: Preset = "small",
    epochs: Epochs = 30,
    batch_size: BatchSize = 8,
    learning_rate: LearningRate = 5e-4,
    crop: Crop = 512,
    validation_share: ValidationShare = 0.1,
    bf16: Bf16 = None,
    limit_time: Annotated[
        str | None, typer.Option(metavar="90s|30m|2h", help="Training time of each run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train otherwise identical networks without Sobel stem, temperatures or HRPS, and compare.

    Writes `ablation.json` and `ablation.md`. Finished runs are kept: give the same command again
    after an interrupt.

    Examples:
    - `clinreadnet ablate --data slices --out ablation --limit-time 1h`
    - `clinreadnet ablate --data slices --test other --out ablation --preset tiny --crop 256`
    """
    from clinreadnet.training.ablate import ablate as run
    from clinreadnet.training.ablation_table import markdown
    from clinreadnet.training.config import TrainConfig

    config = TrainConfig(
        preset=preset,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        crop=crop,
        validation_share=validation_share,
        patience=epochs,
        bf16=bf16,
        limit_seconds=None if limit_time is None else parse_duration(limit_time),
    )
    result = run(data, out, config, seeds, test)
    if as_json:
        print_json(result)
    else:
        print(markdown(result), end="")
