"""`clinreadnet ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import print_json
from clinreadnet.cli.options import (
    BatchSize,
    Bf16,
    Crop,
    Data,
    Epochs,
    Json,
    LearningRate,
    LimitTime,
    Preset,
    ValidationShare,
)
from clinreadnet.console import status
from clinreadnet.training.config import TrainConfig

_DEFAULT = TrainConfig()


def ablate(
    data: Data,
    out: Annotated[
        Path, typer.Option(help="Folder of the runs and of the table.", show_default=False)
    ],
    test: Annotated[
        Path | None,
        typer.Option(help="LDCTIQA folder to measure on; default the held-out anatomies."),
    ] = None,
    patients: Annotated[
        Path | None,
        typer.Option(help="Degraded copies of patients' slices, to measure their order."),
    ] = None,
    clean: Annotated[
        list[Path] | None,
        typer.Option(help="Files or folders of the patients' slices themselves; repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each network.")] = 3,
    preset: Preset = _DEFAULT.preset,
    epochs: Epochs = _DEFAULT.epochs,
    batch_size: BatchSize = _DEFAULT.batch_size,
    learning_rate: LearningRate = _DEFAULT.learning_rate,
    crop: Crop = _DEFAULT.crop,
    target: Annotated[
        str, typer.Option(help="Learn the score, or the noiseless quality of simulated slices.")
    ] = _DEFAULT.target,
    validation_share: ValidationShare = _DEFAULT.validation_share,
    keep: Annotated[
        str, typer.Option(help="Epoch to measure: best on validation, or last.")
    ] = _DEFAULT.keep,
    bf16: Bf16 = _DEFAULT.bf16,
    limit_time: LimitTime = None,
    report: Annotated[
        bool,
        typer.Option("--report", help="Train nothing: compare the networks that are finished."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train otherwise identical networks, each without one part, and compare.

    The parts: Sobel edges, several temperatures, HRPS and its two levels, attention, tile labels.

    Writes `ablation.json` and `ablation.md`. Finished runs are kept: give the same command again
    after an interrupt. With --report it compares what is finished so far.

    Examples:
    - `clinreadnet ablate --data slices --out ablation --limit-time 1h`
    - `clinreadnet ablate --data slices --test other --out ablation --preset tiny --crop 256`
    """
    with status("Importing PyTorch"):
        from clinreadnet.training.ablate import ablate as run
        from clinreadnet.training.ablation_table import markdown
        from clinreadnet.training.recipe import parse_duration

    config = TrainConfig(
        preset=preset,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        crop=crop,
        target=target,
        keep=keep,
        validation_share=validation_share,
        patience=epochs,
        bf16=bf16,
        limit_seconds=None if limit_time is None else parse_duration(limit_time),
    )
    result = run(data, out, config, seeds, test, patients, clean or (), report=report)
    if as_json:
        print_json(result)
    else:
        print(markdown(result), end="")
