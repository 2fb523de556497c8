"""Start, resume and end a training run."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from clinreadnet.console import console, note
from clinreadnet.errors import InputError
from clinreadnet.files import check_output, is_temporary, whole_file
from clinreadnet.training.config import TrainConfig
from clinreadnet.training.dataset import load_slices
from clinreadnet.training.distributed import join_ranks
from clinreadnet.training.recipe import Stage
from clinreadnet.training.tasks import first_model, runs_bfloat16
from clinreadnet.training.trainer import STATE_FILE, Trainer


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Record SIGINT and SIGTERM instead of stopping. A second signal stops at once.

    A signal that is already ignored, such as SIGINT in a background job of a script, stays ignored.
    """
    seen: list[int] = []
    both = (signal.SIGINT, signal.SIGTERM)
    numbers = [
        signal_number
        for signal_number in both
        if signal.getsignal(signal_number) is not signal.SIG_IGN
    ]

    def note(number: int, frame: object) -> None:
        seen.append(number)
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)

    try:
        before = {signal_number: signal.signal(signal_number, note) for signal_number in numbers}
    except ValueError:  # not the main thread, which handles signals
        before = {}
    try:
        yield lambda: bool(seen)
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)


def train(
    data: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    config: TrainConfig,
    *,
    resume: bool = False,
) -> Path:
    """Train a network and return the path of its checkpoint.

    With `torchrun`, the processes share each batch. SIGINT and SIGTERM save the state after the
    current step and end the run.

    Args:
        data: LDCTIQA folders.
        out: run folder. It is created and must be empty unless ``resume``.
        config: settings of the run.
        resume: continue the run in ``out``.

    Raises:
        InputError: data cannot be read, a setting is out of range, the run folder exists, or memory
            is too small for a batch.
        CheckFailed: the loss became infinite or NaN.
        KeyboardInterrupt: the run was interrupted and can be resumed.
    """
    config.check()
    out = Path(out)
    if not resume:
        _check_new(out)
    if resume and not (state := out / STATE_FILE).is_file():
        raise InputError(f"{state}: nothing to resume; start without `resume`")
    first_model(config)  # before the slices are read, which takes longer
    _check_space(out)
    with join_ranks() as ranks:
        _run(Trainer(config, load_slices(data, quiet=not ranks.first), out, ranks), resume)
    return out / "model.safetensors"


def _check_space(out: Path) -> None:
    """Check in advance that the first files of a run can be written."""
    place = out.absolute()
    while not place.exists() and not place.parent.exists():
        place = place.parent
    check_output(place / "log.csv" if place.is_dir() else place)


def _check_new(out: Path) -> None:
    """Check that a run folder does not exist, or contains no saved state of a run."""
    early = {"log.csv", "tensorboard"}
    if out.exists() and not (
        out.is_dir()
        and all(path.name in early or is_temporary(path.name) for path in out.iterdir())
    ):
        raise InputError(f"{out}: already exists; give resume=True to continue it, or name another")


def _run(trainer: Trainer, resume: bool) -> None:
    """Run to the end. A failure leaves either a state to resume or no folder that this run made."""
    out, ranks = trainer.out, trainer.ranks
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    if trainer.config.bf16 and ranks.first and not runs_bfloat16(trainer.config, ranks.device):
        note(
            "this processor has no bfloat16 instructions, and emulates them slowly: products run "
            "in float32"
        )
    if resume:
        trainer.resume()
    try:
        if ranks.first:
            out.mkdir(parents=True, exist_ok=True)
        ranks.reduce(0, "max")  # wait until the folder exists
        with interrupts() as interrupted:
            trainer.run(interrupted)
    except BaseException as error:
        if trainer.step == 0 and ranks.first and not resume:  # there is nothing to resume
            _remove(out, missing)
        elif isinstance(error, KeyboardInterrupt) and ranks.first:
            console.print(f"interrupted at step {trainer.step}; the run can be resumed")
        raise
    ranks.reduce(0, "max")  # wait until the files are written


def _remove(out: Path, missing: Sequence[Path]) -> None:
    """Remove the files of a run, and the folders that it made: ``missing``, innermost first."""
    for path in out.iterdir() if out.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for folder in missing:
        with suppress(OSError):
            folder.rmdir()


def train_recipe(
    data: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    stages: Sequence[Stage],
    *,
    resume: bool = False,
) -> Path:
    """Train the stages of a recipe in order, each in its own folder of ``out``.

    Args:
        data: LDCTIQA folders.
        out: folder of the runs. It is created and must be empty unless ``resume``. It also receives
            ``model.safetensors`` of the last stage.
        stages: stages from `load_recipe`.
        resume: continue an interrupted call. Finished stages are kept.

    Returns:
        The path of the checkpoint.

    Raises:
        The errors of `train`.
    """
    out = Path(out)
    if not resume:
        _check_new(out)
    checkpoint: Path | None = None
    for stage in stages:
        folder = out / stage.name
        config = stage.config
        if checkpoint is not None:
            config = replace(config, init=str(checkpoint))
        checkpoint = folder / "model.safetensors"
        if not (resume and checkpoint.exists()):
            train(data, folder, config, resume=resume and (folder / STATE_FILE).exists())
    assert checkpoint is not None, "a recipe has a stage"
    target = out / "model.safetensors"
    if os.environ.get("RANK", "0") == "0":
        with whole_file(target) as temporary:
            shutil.copyfile(checkpoint, temporary)
    return target
