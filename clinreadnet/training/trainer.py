"""Training loop: schedule, weight averaging, validation, state and log.

The learning rate has a linear warm-up and a cosine decay to zero. The loss is HRPS on the image and
its tiles; products are bfloat16 on GPUs. The moving average of the weights is validated and
written. An anatomy is never on both sides of the split. docs/training.md describes the run folder.
"""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from clinreadnet._version import __version__
from clinreadnet.console import console, progress_bar
from clinreadnet.errors import CheckFailed, InputError, counted
from clinreadnet.evaluation.intervals import fit_temperature
from clinreadnet.evaluation.maps import map_agreement
from clinreadnet.files import whole_file
from clinreadnet.metrics import krocc, plcc, srocc
from clinreadnet.model.checkpoint import save_checkpoint
from clinreadnet.processor import cpu_name
from clinreadnet.spec import FINE_GRADES, MAP_SIDE
from clinreadnet.training.batches import Batch
from clinreadnet.training.calibration import fit_novelty
from clinreadnet.training.config import TrainConfig
from clinreadnet.training.dataset import LabelledSlices, split_by_anatomy
from clinreadnet.training.distributed import Ranks
from clinreadnet.training.log import EpochRow, TrainingLog
from clinreadnet.training.loss import LOSSES, tile_loss
from clinreadnet.training.optimiser import Optimisers
from clinreadnet.training.tasks import autocast, make_task, runs_bfloat16

WARMUP_SHARE = 0.05
"""Share of the run in which the learning rate rises linearly."""

MAX_GRADIENT_NORM = 1.0

EMA_POWER = 16
"""Step s of t has weight (s / t) ** 16 in the average: about the last 6 % of a run."""

STATE_FILE = "last.pt"
"""File of the run folder that a resumed run reads."""

SAVE_SECONDS = 300.0
"""Longest training time that a crash can lose. An interrupt loses nothing."""


class Trainer:
    """A training run: task, averaged weights, optimisers and schedule.

    Args:
        config: settings of the run.
        slices: all labelled slices.
        out: run folder.
        ranks: this process among all.
    """

    def __init__(
        self,
        config: TrainConfig,
        slices: LabelledSlices,
        out: Path,
        ranks: Ranks | None = None,
    ):
        self.config, self.out = config, out
        self.data = {"sources": list(slices.sources), "digest": slices.digest()}
        """What a resumed run must be given again."""
        self.ranks = ranks = ranks or Ranks()
        self.training, self.validation = split_by_anatomy(
            slices, config.validation_share, config.seed
        )
        if config.most_slices is not None:
            self.training = self.training.thinned(config.most_slices)
        if config.target == "quality":
            self.training = _towards_quality(self.training)
        torch.manual_seed(config.seed)
        self.task = make_task(config, self.training, self.validation, ranks)
        self.model, self.batches = self.task.model, self.task.batches
        self.ema = copy.deepcopy(self.model).requires_grad_(False)
        self.learner = self.task.learner
        if ranks.world > 1:
            devices = [ranks.device] if ranks.device.type == "cuda" else None
            self.learner = DistributedDataParallel(self.learner, device_ids=devices)
        self.optimisers = Optimisers(self.model, config.weight_decay)
        self.step, self.seconds = 0, 0.0
        self.rows: list[EpochRow] = []
        self.best: dict[str, Tensor] = {}
        """Averaged weights of the epoch with the best validation sum."""
        self.last_held_out: dict[str, NDArray[np.float64]] | None = None
        """Outputs of the averaged weights on the held-out slices after the last epoch."""
        self.epoch_totals = dict.fromkeys(("steps", "loss", "seconds", "waiting"), 0.0)

    def progress(self) -> float:
        """Finished share of the schedule, 0...1, by steps or, with a time limit, by time."""
        done = self.step / (self.config.epochs * self.batches.per_epoch)
        if self.config.limit_seconds is not None:
            done = max(done, self.seconds / self.config.limit_seconds)
        return min(done, 1.0)

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine to zero."""
        done = self.progress()
        warm = min(1.0, (done + 1e-3) / WARMUP_SHARE)
        return self.config.learning_rate * warm * (1 + math.cos(math.pi * done)) / 2

    def finished(self) -> bool:
        """Return whether the schedule has ended or the patience of validation is exceeded."""
        over = self.progress() >= 1 or self.epochs_without_gain() >= self.config.patience
        return over and not self.epoch_totals["steps"]

    def epochs_without_gain(self) -> int:
        """Return the number of epochs since the best validation sum."""
        return len(self.rows) - 1 - _best(self.rows) if self.rows else 0

    def run(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Train until the schedule ends or validation stops improving, and write the files.

        Args:
            interrupted: called after each step. If it returns true, the state is saved and
                KeyboardInterrupt is raised.

        Raises:
            CheckFailed: the loss is not finite.
            InputError: memory is too small for a batch. The message suggests a size.
        """
        log = TrainingLog(self.out, self.rows) if self.ranks.first else None
        try:
            while not self.finished():
                if self.step % self.batches.per_epoch or not self.epoch_totals["steps"]:
                    self._train_epoch(interrupted)
                row = self.finish_epoch()
                if log is None:
                    self.rows.append(row)
                else:
                    log.add(row)
                    console.print(self._line(row), highlight=False, soft_wrap=True)
                self._keep_best()
                self.save()
            if self.config.keep == "best":
                self.ema.load_state_dict(self.best)
                self.last_held_out = None
            self._calibrate()
            if log is not None:
                save_checkpoint(self.ema, self.out / "model.safetensors", dtype=torch.float16)
                log.finish(self.summary())
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            raise InputError(self._memory_advice()) from error
        finally:
            if log is not None:
                log.close()

    def _train_epoch(self, interrupted: Callable[[], bool]) -> None:
        """Train to the end of the epoch, or of the schedule."""
        self.learner.train()
        totals, saved = self.epoch_totals, self.seconds
        loss_sum = torch.tensor(totals["loss"], dtype=torch.float64).to(self.ranks.device)
        batches = self.batches.after(self.step)
        with progress_bar(quiet=not self.ranks.first, stopping=interrupted) as bar:
            task = bar.add_task(f"epoch {len(self.rows) + 1}", total=self.batches.per_epoch)
            bar.update(task, completed=totals["steps"])
            while self.progress() < 1:
                started = time.monotonic()
                batch = next(batches, None)
                if batch is None:
                    break
                waited = time.monotonic() - started
                loss = self.train_step(batch)
                loss_sum += loss
                self.step += 1
                spent = time.monotonic() - started
                # All processes use the clock of the slowest, so that their schedules agree.
                self.seconds, stop = self.ranks.reduce(
                    [self.seconds + spent, interrupted()], "max"
                ).tolist()
                totals["steps"] += 1
                totals["seconds"] += spent
                totals["waiting"] += waited
                bar.advance(task)
                if self.step % 10 == 0 and not bar.disable:
                    bar.update(task, description=f"epoch {len(self.rows) + 1} {float(loss):.4f}")
                if stop or self.seconds - saved > SAVE_SECONDS:
                    totals["loss"], saved = float(loss_sum), self.seconds
                    self.save()
                if stop:
                    batches.close()
                    raise KeyboardInterrupt
        batches.close()
        totals["loss"] = float(loss_sum)
        if not math.isfinite(totals["loss"]):
            raise CheckFailed(
                f"the loss is not finite in epoch {len(self.rows) + 1}; start again with a lower "
                f"`learning_rate` than {self.config.learning_rate:g}"
            )
        self.save()

    def train_step(self, batch: Batch) -> Tensor:
        """Take a step on this process's part of a batch; return the loss."""
        with autocast(self.config, self.ranks.device):
            probs, tiles = self.learner(batch.inputs)
        loss_of = LOSSES[self.config.loss]
        loss = loss_of(probs.float(), batch.scores).mean()
        if self.config.tile_weight > 0:
            flat = (batch.tiles.flatten(1), batch.weight.flatten(1))
            votes = (tiles.votes.float(), tiles.weights.float())
            loss = loss + self.config.tile_weight * tile_loss(*votes, *flat, loss_of)
        self.optimisers.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self.optimisers.step(self.learning_rate())
        decay = (1 - 1 / (self.step + 2)) ** (EMA_POWER + 1)
        with torch.no_grad():
            averages: list[Tensor] = list(self.ema.parameters())
            weights: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(averages, weights, 1 - decay)
        return loss.detach()

    def _held_out(self) -> dict[str, NDArray[np.float64]]:
        """Score the held-out slices with the averaged weights: score, probs, quality_map."""
        count = len(self.validation)
        index = self.ranks.mine(range(count))
        measures = {
            "score": np.zeros(count),
            "probs": np.zeros((count, FINE_GRADES)),
            "quality_map": np.zeros((count, MAP_SIDE, MAP_SIDE)),
        }
        if len(index):
            with autocast(self.config, self.ranks.device):
                mine = self.task.predict(self.ema, index)
            for name, values in measures.items():
                values[index] = mine[name]
        return {name: self.ranks.reduce(values, "sum") for name, values in measures.items()}

    def finish_epoch(self) -> EpochRow:
        """Score the held-out anatomies with the averaged weights and log the epoch."""
        self.last_held_out = measures = self._held_out()
        true = self.validation.scores
        predicted = measures["score"]
        totals = self.epoch_totals
        loss = self.ranks.reduce(totals["loss"], "sum") / self.ranks.world / totals["steps"]
        row = {
            "epoch": len(self.rows) + 1,
            "step": self.step,
            "minutes": self.seconds / 60,
            "learning_rate": self.learning_rate(),
            "loss": float(loss),
            "validation_rmse": float(np.sqrt(np.mean((predicted - true) ** 2))),
            "plcc": plcc(predicted, true),
            "srocc": srocc(predicted, true),
            "krocc": krocc(predicted, true),
        }
        row["sum"] = sum(abs(row[name]) for name in ("plcc", "srocc", "krocc"))
        tiles = self.validation.tiles_of(np.arange(len(self.validation)))
        agreement = map_agreement(
            measures["quality_map"], tiles.quality, tiles.weight, self.validation.quality
        )
        row["map_correlation"] = agreement["correlation"]["value"] if agreement else math.nan
        row["map_rmse_ratio"] = agreement["rmse_ratio"]["value"] if agreement else math.nan
        row["slices_per_second"] = totals["steps"] * self.config.batch_size / totals["seconds"]
        row["waiting_share"] = totals["waiting"] / totals["seconds"]
        self.epoch_totals = dict.fromkeys(totals, 0.0)
        return row

    def _calibrate(self) -> None:
        """Fit the intervals on held-out slices and the novelty on all slices."""
        probs = (self.last_held_out or self._held_out())["probs"]
        held_out = self.validation
        temperature = fit_temperature(probs, held_out.scores, held_out.groups)
        self.ema.head.temperature.fill_(temperature)
        if self.ranks.first:
            fit_novelty(self.ema, self.training, self.validation, self.config.seed)

    def _keep_best(self) -> None:
        if self.epochs_without_gain() == 0:
            self.best = {k: v.detach().cpu().clone() for k, v in self.ema.state_dict().items()}

    def _line(self, row: EpochRow) -> str:
        return (
            f"epoch {row['epoch']}: loss {row['loss']:.4f}, validation PLCC {row['plcc']:.3f} "
            f"SROCC {row['srocc']:.3f} KROCC {row['krocc']:.3f}, "
            f"maps {row['map_correlation']:.3f}, {row['slices_per_second']:.1f} slices/s, "
            f"{self.progress():.0%} in {row['minutes']:.1f} min"
        )

    def _memory_advice(self) -> str:
        world, size = self.ranks.world, self.config.batch_size
        smaller = size // world // 2 * world
        advice = f"batch_size={smaller}" if smaller else "crop=256 or a smaller `preset`"
        return f"out of memory with batch_size={size}; try {advice}"

    def summary(self) -> dict[str, Any]:
        """Return the facts about the run for a model card, as plain JSON values."""
        steady = self.rows[1:] or self.rows  # the first epoch warms up
        return {
            "config": self.config.named(),
            "data": list(self.training.sources),
            "training_slices": len(self.training),
            "validation_slices": len(self.validation),
            "training_anatomies": len(np.unique(self.training.groups)),
            "validation_anatomies": len(np.unique(self.validation.groups)),
            "steps": self.step,
            "training_minutes": self.seconds / 60,
            "slices_per_second": float(np.median([r["slices_per_second"] for r in steady])),
            "waiting_share": float(np.median([r["waiting_share"] for r in steady])),
            "kept": self.rows[_best(self.rows) if self.config.keep == "best" else -1],
            "device": _device_name(self.ranks.device),
            "bfloat16": runs_bfloat16(self.config, self.ranks.device),
            "processes": self.ranks.world,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "clinreadnet": __version__,
        }

    def save(self) -> None:
        """Write the state for a resumed run, `last.pt`, atomically."""
        if not self.ranks.first:
            return
        state = {
            "config": asdict(self.config),
            "data": self.data,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "best": self.best,
            "optimisers": self.optimisers.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "epoch_totals": self.epoch_totals,
            "rows": self.rows,
        }
        buffer = io.BytesIO()  # on a full disk, torch.save to a file raises RuntimeError
        torch.save(state, buffer)
        with whole_file(self.out / STATE_FILE) as path:
            path.write_bytes(buffer.getbuffer())

    def resume(self) -> None:
        """Continue from `last.pt` of the run folder.

        Raises:
            InputError: the file belongs to a run with other settings or data.
        """
        path = self.out / STATE_FILE
        try:
            state = torch.load(path, map_location=self.ranks.device, weights_only=True)
            changed = [k for k, v in asdict(self.config).items() if state["config"].get(k) != v]
            before = state.get("data", self.data)  # none in a state of an earlier version
            other_data = before["digest"] != self.data["digest"]
            folders = ", ".join(source["name"] for source in before["sources"])
        except MemoryError:
            raise
        except Exception as error:  # torch raises any exception of its unpickler
            raise InputError(
                f"{path}: not a state of training ({type(error).__name__}); restore it, or start "
                "another run"
            ) from error
        if changed:
            raise InputError(
                f"{path}: was started with another {', '.join(changed)}; "
                "repeat the run's own options or start a new one"
            )
        if other_data:
            raise InputError(
                f"{path}: was started with other data ({folders}); give the run's own `data` in "
                "the same order, or start a new one"
            )
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimisers.load_state_dict(state["optimisers"])
        self.best = {name: value.cpu() for name, value in state["best"].items()}
        self.step, self.seconds = state["step"], state["seconds"]
        self.epoch_totals, self.rows = state["epoch_totals"], state["rows"]


def _towards_quality(slices: LabelledSlices) -> LabelledSlices:
    """Return the slices with the noiseless quality as their scores."""
    if unknown := int(np.isnan(slices.quality).sum()):
        raise InputError(
            f"target=quality: {counted(unknown, 'training slice', len(slices), 'has')} no recorded "
            "quality, which simulated folders alone have; use target=score"
        )
    return replace(slices, scores=slices.quality)


def _best(rows: Sequence[EpochRow]) -> int:
    """Return the index of the first row with the highest sum; NaN counts as lowest."""
    return max(range(len(rows)), key=lambda i: np.nan_to_num(rows[i]["sum"], nan=-1.0))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch's CPU allocator raises a plain RuntimeError.
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        word in str(error) for word in words
    )
