"""`clinreadnet train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import parse_duration
from clinreadnet.cli.options import (
    BatchSize,
    Bf16,
    Crop,
    Data,
    Epochs,
    LearningRate,
    Preset,
    ValidationShare,
)


def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder to create.", show_default=False)],
    preset: Preset = "small",
    epochs: Epochs = 30,
    batch_size: BatchSize = 8,
    learning_rate: LearningRate = 5e-4,
    crop: Crop = 512,
    loss: Annotated[str, typer.Option(help="hrps, or cross-entropy to compare with.")] = "hrps",
    target: Annotated[
        str, typer.Option(help="Learn the score, or the noiseless quality of simulated slices.")
    ] = "score",
    bf16: Bf16 = None,
    validation_share: ValidationShare = 0.1,
    patience: Annotated[
        int,
        typer.Option(min=1, help="Epochs without a better validation score to stop after."),
    ] = 20,
    keep: Annotated[
        str, typer.Option(help="Epoch to write: best on validation, or last.")
    ] = "best",
    limit_time: Annotated[
        str | None,
        typer.Option(metavar="90s|30m|2h", help="Finish the schedule within this training time."),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(help="Checkpoint to start from: of such a network, or of its SOQN alone."),
    ] = None,
    soqn: Annotated[
        Path | None,
        typer.Option(help="Checkpoint whose stem and view of the edges to take and to keep."),
    ] = None,
    statistics_only: Annotated[
        bool,
        typer.Option(
            "--statistics-only", help="Train a new view of the edges on the frozen stem of --init."
        ),
    ] = False,
    soqn_only: Annotated[
        bool, typer.Option("--soqn-only", help="Leave out the attention; the result is for --init.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of weights, split, order and augmentation.")
    ] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
) -> None:
    """Train a network on labelled slices; whole anatomies are held out for validation.

    Writes `log.csv`, TensorBoard events, `last.pt` (for --resume) and, at the end,
    `model.safetensors`, `summary.json` and `curves.png`. An interrupted run loses no step.

    Examples:
    - `clinreadnet train --data slices --out run --preset small --epochs 30`
    - `clinreadnet train --data LDCTIQAG2023_train --data slices --out run --limit-time 2h`
    - `clinreadnet train --data slices --out run --epochs 30 --resume`
    - `torchrun --nproc-per-node 8 --no-python clinreadnet train --data slices --out run`
    """
    from clinreadnet.training.config import TrainConfig
    from clinreadnet.training.run import train as run

    config = TrainConfig(
        preset=preset,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        crop=crop,
        seed=seed,
        bf16=bf16,
        validation_share=validation_share,
        patience=patience,
        keep=keep,
        limit_seconds=None if limit_time is None else parse_duration(limit_time),
        loss=loss,
        target=target,
        init=None if init is None else str(init),
        soqn=None if soqn is None else str(soqn),
        statistics_only=statistics_only,
        soqn_only=soqn_only,
    )
    checkpoint = run(data, out, config, resume=resume)
    if os.environ.get("RANK", "0") == "0":  # only one process of torchrun prints
        print(checkpoint)
