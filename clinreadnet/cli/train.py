"""`clinreadnet train`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli import options
from clinreadnet.console import status
from clinreadnet.errors import InputError
from clinreadnet.training.config import TrainConfig


@dataclass(frozen=True)
class TrainOptions(options.StepOptions):
    """Settings of `TrainConfig`."""

    loss: Annotated[
        str, typer.Option(help="hrps; to compare with: rps-fine, rps-coarse or cross-entropy.")
    ] = TrainConfig.loss
    target: options.Target = TrainConfig.target
    tile_weight: Annotated[
        float, typer.Option(min=0, help="Weight of the loss of the tiles; 0: image labels alone.")
    ] = TrainConfig.tile_weight
    bf16: options.Bf16 = TrainConfig.bf16
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Compile the network first: minutes, then faster steps."),
    ] = TrainConfig.compile
    validation_share: options.ValidationShare = TrainConfig.validation_share
    patience: Annotated[
        int,
        typer.Option(min=1, help="Epochs without a better validation sum after which to stop."),
    ] = TrainConfig.patience
    keep: Annotated[str, typer.Option(help="Epoch to write: best on validation, or last.")] = (
        TrainConfig.keep
    )


def train(
    context: typer.Context,
    data: options.Data,
    *,
    out: Annotated[Path, typer.Option(help="Run folder to create.", show_default=False)],
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Run the stages of a recipe, such as `small`, the shipped checkpoint's. It sets "
            "all other options.",
        ),
    ] = None,
    settings: TrainOptions,
    limit_time: options.LimitTime = None,
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint to start from. Default: random weights.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of weights, split, order and augmentation.")
    ] = TrainConfig.seed,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
) -> None:
    """Train a network on labelled slices; whole anatomies are held out for validation.

    Writes `log.csv`, TensorBoard events, `last.pt` (for --resume) and, at the end,
    `model.safetensors`, `summary.json` and `curves.png`. An interrupted run loses no step.

    Examples:
    - `clinreadnet train --data slices --out run --preset small --epochs 30`
    - `clinreadnet train --data slices --out run --recipe small`
    - `clinreadnet train --data LDCTIQAG2023_train --data slices --out run --limit-time 2h`
    - `clinreadnet train --data slices --out run --epochs 30 --resume`
    - `torchrun --nproc-per-node 8 --no-python clinreadnet train --data slices --out run`
    """
    with status("Importing PyTorch"):
        from clinreadnet.training.recipe import load_recipe, parse_duration
        from clinreadnet.training.run import train as run
        from clinreadnet.training.run import train_recipe

    if recipe is not None:
        _refuse_other_options(context)
        checkpoint = train_recipe(data, out, load_recipe(recipe), resume=resume)
    else:
        config = TrainConfig(
            **vars(settings),
            seed=seed,
            limit_seconds=None if limit_time is None else parse_duration(limit_time),
            init=None if init is None else str(init),
        )
        checkpoint = run(data, out, config, resume=resume)
    if os.environ.get("RANK", "0") == "0":  # only one process of torchrun prints
        print(checkpoint)


def _refuse_other_options(context: typer.Context) -> None:
    """Reject options that a recipe sets."""
    for param in context.command.params:
        source = context.get_parameter_source(str(param.name))
        given = source is not None and source.name == "COMMANDLINE"
        if given and param.name not in ("data", "out", "recipe", "resume"):
            raise InputError(f"{param.opts[0]} cannot be combined with --recipe, which sets it")
