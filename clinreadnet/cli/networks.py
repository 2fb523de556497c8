"""Make networks and measure them: simulate, train, ablate, evaluate."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from clinreadnet.cli.bundles import verify_bundle
from clinreadnet.cli.common import Force, Json, Plot, parse_duration, print_json
from clinreadnet.errors import InputError

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


def simulate(
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Number of slices; default, with --anatomy, all there are."),
    ] = None,
    anatomy: Annotated[
        list[Path] | None,
        typer.Option(help="Own routine-dose DICOM file or folder to degrade, repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    dicom: Annotated[
        bool,
        typer.Option("--dicom", help="Write one patient's CT series instead of labelled images."),
    ] = False,
    preview: Annotated[
        Path | None, typer.Option(help="Contact sheet to draw: .png, .pdf or .svg.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where to project: cpu, cuda, or auto for CUDA where there is any.")
    ] = "cpu",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; one per processor where not given.")
    ] = None,
    force: Force = False,
) -> None:
    """Simulate low-dose abdominal slices, labelled by simulated readers.

    Writes an LDCTIQA folder: image/0000.tif ..., train.json and simulation.json. Sixteen slices
    show one anatomy: four noise levels times three view counts, and four denoised copies.
    Simulated, research use only.

    Examples:
    - `clinreadnet simulate --out data --count 1200 --seed 1 --preview sheet.png`
    - `clinreadnet simulate --out mine --anatomy routine-dose-series`
    - `clinreadnet simulate --out series --count 24 --seed 1 --dicom`
    """
    from clinreadnet.data.slices import find_slices
    from clinreadnet.simulator.preview import check_preview, write_preview
    from clinreadnet.simulator.simulate import simulate_folder, simulate_series

    jobs = jobs or os.cpu_count() or 1
    if preview is not None:
        check_preview(preview)
    if dicom:
        if anatomy or preview or count is None:
            raise InputError("--dicom needs --count, and goes with neither --anatomy nor --preview")
        simulate_series(out, count, seed, jobs=jobs, force=force)
        print(f"{out}: {count} slices of a CT series", file=sys.stderr)
        return
    scanned = (
        find_slices(anatomy, note=lambda line: print(line, file=sys.stderr)) if anatomy else []
    )
    scores = simulate_folder(
        out, count, seed, scanned=scanned, device=device, jobs=jobs, force=force
    )
    print(f"{out}: {len(scores)} labelled slices", file=sys.stderr)
    if preview is not None:
        write_preview(out, preview)


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
    if os.environ.get("RANK", "0") == "0":  # one of the processes of torchrun speaks for all
        print(checkpoint)


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
