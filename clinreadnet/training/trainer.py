"""Train ClinReadNet on LDCTIQA folders, simulated or real.

AdamW with a warm-up and a cosine to zero, HRPS loss, bfloat16 products on GPUs. What is validated
and shipped are not the last weights but their moving average. Slices of one anatomy never stand on
both sides of the split. docs/training.md describes the run folder.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clinreadnet._version import __version__
from clinreadnet.console import console, progress_bar
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.files import whole_file
from clinreadnet.machine import cpu_name
from clinreadnet.metrics import krocc, plcc, srocc
from clinreadnet.model.checkpoint import SOQN, load_checkpoint, load_parts, save_checkpoint
from clinreadnet.model.network import ClinReadNet, ClinReadNetConfig
from clinreadnet.model.predict import predict
from clinreadnet.training.batches import Batches, BatchSource
from clinreadnet.training.config import TrainConfig
from clinreadnet.training.dataset import LabelledSlices, split_by_anatomy
from clinreadnet.training.distributed import Ranks
from clinreadnet.training.log import Row, TrainingLog
from clinreadnet.training.loss import LOSSES

WARMUP_SHARE = 0.05
"""Share of the run in which the learning rate rises linearly."""

MAX_GRADIENT_NORM = 1.0

HEAD_RATE = 8.0
"""Learning rate of the head over that of the rest: what it sees is standardised."""

CALIBRATION_SLICES = 64
"""LabelledSlices of the training set with which the statistics of edges are standardised."""

EMA_POWER = 16
"""The average weighs step s of t by (s / t) ** 16: about the last 6 % of a run of any length."""

SAVE_SECONDS = 300.0
"""Longest training time that a crash can cost; an interrupt costs nothing."""


class Trainer:
    """One run: owns the network, its average, the optimiser and where in the schedule it stands."""

    def __init__(
        self, config: TrainConfig, slices: LabelledSlices, out: Path, ranks: Ranks | None = None
    ):
        self.config, self.out = config, out
        self.ranks = ranks = ranks or Ranks()
        self.training, self.validation = split_by_anatomy(
            slices, config.validation_share, config.seed
        )
        if config.target == "quality":
            self.training = _towards_quality(self.training)
        torch.manual_seed(config.seed)
        preset = ClinReadNetConfig.from_preset(config.preset)
        shape = replace(preset, edges=config.edges, octaves=config.octaves)
        if config.soqn_only:
            shape = replace(shape, depths=(), heads=())
        self.model = model = self._first_model(shape).to(ranks.device)
        self.batches = self._first_batches()
        self.ema = copy.deepcopy(model).requires_grad_(False)
        self.network = self._trained_part()
        if ranks.world > 1:
            devices = [ranks.device] if ranks.device.type == "cuda" else None
            self.network = DistributedDataParallel(self.network, device_ids=devices)
        # Norms, biases, temperatures and gates are not decayed; matrices are, but for the head's.
        head = set(model.head.parameters())
        body = [p for p in model.parameters() if p not in head]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in body if p.ndim >= 2], "times": 1.0},
            {"params": [p for p in body if p.ndim < 2], "times": 1.0, "weight_decay": 0.0},
            {"params": list(model.head.parameters()), "times": HEAD_RATE, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.98),
        )
        self.step, self.seconds = 0, 0.0
        self.rows: list[Row] = []
        self.best: dict[str, Tensor] = {}
        """Averaged weights of the epoch with the best validation score."""
        self.epoch_totals = dict.fromkeys(("steps", "loss", "seconds", "waiting"), 0.0)

    def _first_model(self, shape: ClinReadNetConfig) -> ClinReadNet:
        """Return the network as the run begins."""
        config, model = self.config, ClinReadNet(shape)
        if config.soqn is not None:
            if config.init is not None:
                load_parts(model, config.init, ["stages"])
            load_parts(model, config.soqn, SOQN)
            for part in SOQN:
                model.get_submodule(part).requires_grad_(False)
        elif config.init is not None:
            initial = load_checkpoint(config.init, preset=config.preset)
            if initial.config == shape:
                return initial
            load_parts(model, config.init, SOQN)
        else:
            few = min(CALIBRATION_SLICES, len(self.training))
            first = Batches(self.training, few, config.crop, config.seed, Ranks())
            model.calibrate(next(first.after(0))[0])
        return model

    def _first_batches(self) -> BatchSource:
        """Return where the run takes its batches from."""
        config = self.config
        return Batches(self.training, config.batch_size, config.crop, config.seed, self.ranks)

    def _trained_part(self) -> nn.Module:
        """Return the module that takes the inputs of ``batches`` and gives a prediction."""
        return self.model

    def progress(self) -> float:
        """Share of the schedule that is done, 0...1: by steps, or by time where that is limited."""
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
        """Return whether the schedule is done, or validation has gained nothing for long."""
        over = self.progress() >= 1 or self.epochs_without_gain() >= self.config.patience
        return over and not self.epoch_totals["steps"]

    def epochs_without_gain(self) -> int:
        """Return how many epochs have passed since the best validation score."""
        return len(self.rows) - 1 - _best(self.rows) if self.rows else 0

    def run(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Train to the end of the schedule, or until validation gains nothing, and write the files.

        Args:
            interrupted: asked after each step; where it says yes, the state is saved and
                KeyboardInterrupt raised.

        Raises:
            CheckFailed: the loss is not finite.
            InputError: memory does not hold a batch; the message says which size to try.
        """
        log = TrainingLog(self.out, self.rows) if self.ranks.first else None
        try:
            while not self.finished():
                if self.step % self.batches.per_epoch or not self.epoch_totals["steps"]:
                    self._train_epoch(interrupted)
                row = self._finish_epoch()
                if log is None:
                    self.rows.append(row)
                else:
                    log.add(row)
                    console.print(self._line(row), highlight=False, soft_wrap=True)
                self._keep_best()
                self.save()
            if log is not None:
                if self.config.keep == "best":
                    self.ema.load_state_dict(self.best)
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
        self.network.train()
        totals, saved = self.epoch_totals, self.seconds
        loss_sum = torch.tensor(totals["loss"], dtype=torch.float64).to(self.ranks.device)
        batches = self.batches.after(self.step)
        with progress_bar(quiet=not self.ranks.first) as bar:
            task = bar.add_task(f"epoch {len(self.rows) + 1}", total=self.batches.per_epoch)
            bar.update(task, completed=totals["steps"])
            while self.progress() < 1:
                started = time.monotonic()
                batch = next(batches, None)
                if batch is None:
                    break
                waited = time.monotonic() - started
                loss = self._train_step(*batch)
                loss_sum += loss
                self.step += 1
                spent = time.monotonic() - started
                # The slowest process's clock is everyone's, so that all keep one schedule.
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
                f"--learning-rate than {self.config.learning_rate:g}"
            )
        self.save()

    def _train_step(self, inputs: Tensor, scores: Tensor) -> Tensor:
        """Take one step on this process's part of a batch; return its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate() * group["times"]
        with self._autocast():
            probs = self.network(inputs).probs
        loss = LOSSES[self.config.loss](probs, scores)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self.optimiser.step()
        decay = (1 - 1 / (self.step + 2)) ** (EMA_POWER + 1)
        with torch.no_grad():
            averages: list[Tensor] = list(self.ema.parameters())
            weights: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(averages, weights, 1 - decay)
        return loss.detach()

    def _autocast(self) -> torch.autocast:
        device = self.ranks.device.type
        wanted = device == "cuda" if self.config.bf16 is None else self.config.bf16
        return torch.autocast(device, torch.bfloat16, enabled=wanted)

    def _predict(self, index: Sequence[int]) -> NDArray[np.float64]:
        """Score the held-out slices ``index`` [k], this process's, with the average: [k]."""
        return predict(self.ema, self.validation.images(np.asarray(index)))

    def _finish_epoch(self) -> Row:
        """Score the held-out anatomies with the averaged weights, and close the epoch's books."""
        index = self.ranks.mine(range(len(self.validation)))
        predicted = np.zeros(len(self.validation))
        with self._autocast():
            predicted[index] = self._predict(index)
        predicted, true = self.ranks.reduce(predicted, "sum"), self.validation.scores
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
        row["score"] = sum(abs(row[name]) for name in ("plcc", "srocc", "krocc"))
        row["slices_per_second"] = totals["steps"] * self.config.batch_size / totals["seconds"]
        row["waiting_share"] = totals["waiting"] / totals["seconds"]
        self.epoch_totals = dict.fromkeys(totals, 0.0)
        return row

    def _keep_best(self) -> None:
        if self.epochs_without_gain() == 0:
            self.best = {k: v.detach().cpu().clone() for k, v in self.ema.state_dict().items()}

    def _line(self, row: Row) -> str:
        return (
            f"epoch {row['epoch']}: loss {row['loss']:.4f}, validation PLCC {row['plcc']:.3f} "
            f"SROCC {row['srocc']:.3f} KROCC {row['krocc']:.3f}, {row['slices_per_second']:.1f} "
            f"slices/s, {self.progress():.0%} in {row['minutes']:.1f} min"
        )

    def _memory_advice(self) -> str:
        world, size = self.ranks.world, self.config.batch_size
        smaller = size // world // 2 * world
        advice = f"--batch-size {smaller}" if smaller else "--crop 256 or a smaller --preset"
        return f"out of memory with --batch-size {size}; try {advice}"

    def summary(self) -> dict[str, Any]:
        """Return what a model card needs to say about the run, ready for JSON."""
        steady = self.rows[1:] or self.rows  # the first epoch warms up
        init, soqn = (path and Path(path).name for path in (self.config.init, self.config.soqn))
        return {
            "config": asdict(self.config) | {"init": init, "soqn": soqn},
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
            "processes": self.ranks.world,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "clinreadnet": __version__,
        }

    def save(self) -> None:
        """Write `last.pt`, everything a resumed run needs, whole."""
        if not self.ranks.first:
            return
        state = {
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "epoch_totals": self.epoch_totals,
            "rows": self.rows,
        }
        with whole_file(self.out / "last.pt") as path:
            torch.save(state, path)

    def resume(self) -> None:
        """Continue from `last.pt` of the run folder.

        Raises:
            InputError: no such file, or it belongs to a run with other settings.
        """
        path = self.out / "last.pt"
        if not path.is_file():
            raise InputError(f"{path}: nothing to resume; start without --resume")
        state = torch.load(path, map_location=self.ranks.device, weights_only=True)
        changed = [k for k, v in asdict(self.config).items() if state["config"].get(k) != v]
        if changed:
            raise InputError(
                f"{path}: was started with another {', '.join(changed)}; "
                "repeat the run's own options or start a new one"
            )
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best = {name: value.cpu() for name, value in state["best"].items()}
        self.step, self.seconds = state["step"], state["seconds"]
        self.epoch_totals, self.rows = state["epoch_totals"], state["rows"]


def _towards_quality(slices: LabelledSlices) -> LabelledSlices:
    """Return the slices with the noiseless quality for their scores."""
    if unknown := int(np.isnan(slices.quality).sum()):
        raise InputError(
            f"--target quality: {unknown} of {len(slices)} slices to train on come with no "
            "recorded quality, which simulated folders alone have; use --target score"
        )
    return replace(slices, scores=slices.quality)


def _best(rows: Sequence[Row]) -> int:
    """Return the index of the first row with the highest score; one that is no number is lowest."""
    return max(range(len(rows)), key=lambda i: np.nan_to_num(rows[i]["score"], nan=-1.0))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch's CPU allocator raises a plain RuntimeError.
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        word in str(error) for word in words
    )
