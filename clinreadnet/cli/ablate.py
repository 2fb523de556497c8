"""`clinreadnet ablate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli import options
from clinreadnet.cli.common import print_json
from clinreadnet.console import status
from clinreadnet.training.config import TrainConfig


@dataclass(frozen=True)
class AblateOptions(options.StepOptions):
    """Settings of `TrainConfig` that all networks share."""

    target: options.Target = TrainConfig.target
    validation_share: options.ValidationShare = TrainConfig.validation_share
    keep: Annotated[str, typer.Option(help="Epoch to measure: best on validation, or last.")] = (
        TrainConfig.keep
    )
    bf16: options.Bf16 = TrainConfig.bf16


def ablate(
    data: options.Data,
    *,
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
    settings: AblateOptions,
    limit_time: options.LimitTime = None,
    report: Annotated[
        bool,
        typer.Option("--report", help="Train nothing: compare the networks that are finished."),
    ] = False,
    as_json: options.Json = False,
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
        **vars(settings),
        patience=settings.epochs,
        limit_seconds=None if limit_time is None else parse_duration(limit_time),
    )
    result = run(data, out, config, seeds, test, patients, clean or (), report=report)
    if as_json:
        print_json(result)
    else:
        print(markdown(result), end="")
