"""Start, resume and end a training run."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clinreadnet.console import console
from clinreadnet.errors import InputError
from clinreadnet.spec import SIZE
from clinreadnet.training.config import KEPT, TARGETS, TrainConfig
from clinreadnet.training.dataset import load_slices
from clinreadnet.training.distributed import join_ranks
from clinreadnet.training.loss import LOSSES
from clinreadnet.training.trainer import Trainer


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Note SIGINT and SIGTERM instead of stopping at once; a second one stops at once."""
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        seen.append(number)
        for one, handler in before.items():
            signal.signal(one, handler)

    try:
        before = {one: signal.signal(one, note) for one in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever owns that handles signals
        before = {}
    try:
        yield lambda: bool(seen)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def train(
    data: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    config: TrainConfig,
    *,
    resume: bool = False,
) -> Path:
    """Train a network and return the path of its checkpoint.

    Started by `torchrun`, the processes share each batch. SIGINT and SIGTERM end the run after
    the current step with its state saved.

    Args:
        data: LDCTIQA folders.
        out: run folder; created, and must not hold anything unless ``resume``.
        config: the run's settings.
        resume: continue the run that ``out`` holds.

    Raises:
        InputError: unreadable data, settings out of range, a run folder that exists, or a batch
            that memory does not hold.
        CheckFailed: the loss is not finite.
        KeyboardInterrupt: the run was interrupted; ``resume`` goes on.
    """
    if config.crop not in (256, SIZE):
        raise InputError(f"crop={config.crop}: the network takes crops of 256 or 512 pixels")
    if config.loss not in LOSSES:
        raise InputError(f"loss={config.loss}: unknown; known: {', '.join(LOSSES)}")
    for option, value, known in (
        ("target", config.target, TARGETS),
        ("keep", config.keep, KEPT),
    ):
        if value not in known:
            raise InputError(f"{option}={value}: unknown; known: {', '.join(known)}")
    out = Path(out)
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: already exists; give resume=True to continue it, or name another")
    trainer = _trainer(config)
    with join_ranks() as ranks:
        _run(trainer(config, load_slices(data, quiet=not ranks.first), out, ranks), resume)
    return out / "model.safetensors"


def _trainer(config: TrainConfig) -> type[Trainer]:
    if config.soqn is not None and (config.soqn_only or config.statistics_only):
        raise InputError("`soqn` keeps what `soqn_only` and `statistics_only` train; leave one out")
    if not config.statistics_only:
        return Trainer
    if config.init is None:
        raise InputError("`statistics_only` needs `init`: the checkpoint whose stem to use")
    from clinreadnet.training.tasks import StatisticsTrainer

    return StatisticsTrainer


def _run(trainer: Trainer, resume: bool) -> None:
    """Run to the end; a failure leaves in the run folder a state to resume, or nothing."""
    out, ranks = trainer.out, trainer.ranks
    if resume:
        trainer.resume()
    elif ranks.first:
        out.mkdir(parents=True, exist_ok=True)
    ranks.reduce(0, "max")  # nobody goes on before the folder is there
    try:
        with _interrupts() as interrupted:
            trainer.run(interrupted)
    except BaseException as error:
        if trainer.step == 0 and ranks.first:  # there is nothing to resume
            shutil.rmtree(out, ignore_errors=True)
        elif isinstance(error, KeyboardInterrupt) and ranks.first:
            console.print(f"interrupted at step {trainer.step}; the run can be resumed")
        raise
    ranks.reduce(0, "max")  # nobody leaves before the files are written
