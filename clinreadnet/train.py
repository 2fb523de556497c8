"""Train ClinReadNet on LDCTIQA folders, simulated or real.

AdamW with a warm-up and a cosine to zero, HRPS loss, random flips and (optionally) crops. Slices of
one anatomy never stand on both sides of the split. A run folder holds `log.csv` (a row an epoch),
`last.pt` (everything a resumed run needs) and, when done, `model.safetensors`.
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clinreadnet.data.ldctiqa import read_ldctiqa
from clinreadnet.errors import InputError
from clinreadnet.grading import SIZE
from clinreadnet.loss import hrps_loss
from clinreadnet.metrics import krocc, plcc, srocc
from clinreadnet.model import ClinReadNet, ClinReadNetConfig
from clinreadnet.output import whole_file
from clinreadnet.progress import console, progress_bar
from clinreadnet.weights import load_checkpoint, save_checkpoint

WARMUP_SHARE = 0.05
"""Share of the run in which the learning rate rises linearly."""

MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """What decides a run, beside its data."""

    preset: str = "small"
    epochs: int = 30
    batch_size: int = 8
    learning_rate: float = 3e-4
    weight_decay: float = 0.05
    crop: int = SIZE
    """Side of the random crops in pixels (256 or 512); 256 costs a quarter."""
    validation_share: float = 0.1
    """Share of the anatomies held out."""
    seed: int = 0
    bf16: bool = False
    """Run the products in bfloat16 (autocast); softmax, norms and loss stay float32."""
    limit_minutes: float | None = None
    """Finish the schedule within this time, however many epochs that makes."""
    init: str | None = None
    """Checkpoint to start from instead of random weights."""


@dataclass(frozen=True)
class Slices:
    """Slices in memory."""

    hu: NDArray[np.int16]
    """[n, 512, 512] Hounsfield units."""
    scores: NDArray[np.float32]
    """[n] true scores 0...4."""
    groups: NDArray[np.int64]
    """[n] anatomy of each slice."""

    def __len__(self) -> int:
        return len(self.scores)

    def subset(self, index: NDArray[np.bool_]) -> Slices:
        """Return the slices where ``index`` [n] is true."""
        return Slices(self.hu[index], self.scores[index], self.groups[index])


def load_slices(folders: Sequence[str | os.PathLike[str]]) -> Slices:
    """Read LDCTIQA folders into memory, half a mebibyte a slice.

    Raises:
        InputError: a folder is unreadable, or does not say which slices share an anatomy.
    """
    hu, scores, groups, first = [], [], [], 0
    for folder in folders:
        data = read_ldctiqa(folder)
        if data.groups is None:
            raise InputError(
                f"{folder}: no simulation.json, so slices of one anatomy cannot be kept together; "
                "add one that names the anatomy of each file (docs/simulator.md)"
            )
        with progress_bar() as bar:
            for i in bar.track(range(len(data.names)), description=f"read {folder}"):
                hu.append(np.rint(data.hu(i)).astype(np.int16))
        scores.append(data.scores.astype(np.float32))
        groups.append(data.groups.astype(np.int64) + first)
        first = int(groups[-1].max()) + 1
    return Slices(np.stack(hu), np.concatenate(scores), np.concatenate(groups))


def split_by_anatomy(slices: Slices, share: float, seed: int) -> tuple[Slices, Slices]:
    """Split into (training, validation); every anatomy is wholly on one side.

    Raises:
        InputError: fewer than two anatomies.
    """
    anatomies = np.unique(slices.groups)
    if len(anatomies) < 2:
        raise InputError("the training data holds fewer than two anatomies; simulate more slices")
    shuffled = np.random.default_rng(seed).permutation(anatomies)
    held_out = shuffled[: max(1, round(share * len(anatomies)))]
    validation = np.isin(slices.groups, held_out)
    return slices.subset(~validation), slices.subset(validation)


def augment(hu: Tensor, crop: int, generator: torch.Generator) -> Tensor:
    """Random crop and flips of each slice; no resizing, which would change the noise.

    Args:
        hu: [B, 512, 512].
        crop: side of the crop in pixels.
        generator: of the random numbers, on the CPU.

    Returns:
        [B, 1, crop, crop].
    """
    out = []
    for image in hu:
        free = image.shape[-1] - crop
        top, left = torch.randint(free + 1, (2,), generator=generator).tolist()
        image = image[top : top + crop, left : left + crop]
        flips = torch.randint(2, (2,), generator=generator)
        out.append(image.flip([dim for dim in (0, 1) if flips[dim]]))
    return torch.stack(out)[:, None]


def predict(model: ClinReadNet, hu: NDArray[np.int16], batch_size: int = 4) -> NDArray[np.float64]:
    """Score slices [n, 512, 512] with the network as it is: [n]."""
    model.eval()
    device = next(model.parameters()).device
    scores = []
    with torch.inference_mode():
        for first in range(0, len(hu), batch_size):
            batch = torch.from_numpy(hu[first : first + batch_size]).to(device)
            scores.append(model(batch[:, None].float()).score.double().cpu().numpy())
    return np.concatenate(scores)


class Trainer:
    """One run: owns the model, the optimiser and where in the schedule it stands."""

    def __init__(self, config: TrainConfig, slices: Slices, out: Path):
        self.config, self.out = config, out
        torch.manual_seed(config.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if config.init is not None:
            model = load_checkpoint(config.init, preset=config.preset)
        else:
            model = ClinReadNet(ClinReadNetConfig.from_preset(config.preset))
        self.model = model.to(self.device)
        # Norms, biases, temperatures and gates are not decayed; matrices are.
        matrices = [p for p in model.parameters() if p.ndim >= 2]
        vectors = [p for p in model.parameters() if p.ndim < 2]
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.98),
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.training, self.validation = split_by_anatomy(
            slices, config.validation_share, config.seed
        )
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.steps_per_epoch = math.ceil(len(self.training) / config.batch_size)
        self.rows: list[dict[str, float]] = []

    def progress(self) -> float:
        """Share of the schedule that is done, 0...1: by steps, or by time where that is limited."""
        done = self.step / (self.config.epochs * self.steps_per_epoch)
        if self.config.limit_minutes is not None:
            done = max(done, self.seconds / (60 * self.config.limit_minutes))
        return min(done, 1.0)

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine to zero."""
        done = self.progress()
        warm = min(1.0, (done + 1e-3) / WARMUP_SHARE)
        return self.config.learning_rate * warm * (1 + math.cos(math.pi * done)) / 2

    def run(self) -> None:
        """Train to the end of the schedule, writing the run folder as it goes."""
        while self.progress() < 1:
            row = self.run_epoch()
            self.rows.append(row)
            self.save()
            console.print(
                f"epoch {self.epoch}: loss {row['loss']:.4f}, validation "
                f"PLCC {row['plcc']:.3f} SROCC {row['srocc']:.3f} KROCC {row['krocc']:.3f}, "
                f"{self.progress():.0%} in {self.seconds / 60:.1f} min"
            )
        save_checkpoint(self.model, self.out / "model.safetensors", dtype=torch.float16)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch of ([B, 1, crop, crop] HU, [B] scores), shuffled and augmented."""
        order = torch.randperm(len(self.training), generator=self.generator)
        for index in order.split(self.config.batch_size):
            hu = torch.from_numpy(self.training.hu[index.numpy()])
            hu = augment(hu, self.config.crop, self.generator).to(self.device)
            yield hu.float(), torch.from_numpy(self.training.scores[index.numpy()]).to(self.device)

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch (or to the end of the schedule), then score the held-out anatomies."""
        self.model.train()
        total, seen, before, started = 0.0, 0, self.seconds, time.monotonic()
        with progress_bar() as bar:
            task = bar.add_task(f"epoch {self.epoch + 1}", total=self.steps_per_epoch)
            for hu, scores in self.batches():
                rate = self.learning_rate()
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
                    probs = self.model(hu).probs
                loss = hrps_loss(probs, scores)
                self.optimiser.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
                self.optimiser.step()
                value = float(loss.detach())
                total, seen = total + value * len(scores), seen + len(scores)
                self.step += 1
                self.seconds = before + time.monotonic() - started
                bar.update(task, advance=1, description=f"epoch {self.epoch + 1} {value:.4f}")
                if self.progress() >= 1:
                    break
        self.epoch += 1
        predicted, true = predict(self.model, self.validation.hu), self.validation.scores
        return {
            "epoch": self.epoch,
            "step": self.step,
            "minutes": self.seconds / 60,
            "learning_rate": rate,
            "loss": total / seen,
            "validation_rmse": float(np.sqrt(np.mean((predicted - true) ** 2))),
            "plcc": plcc(predicted, true),
            "srocc": srocc(predicted, true),
            "krocc": krocc(predicted, true),
        }

    def save(self) -> None:
        """Write `log.csv` and `last.pt`, each whole."""
        with whole_file(self.out / "log.csv") as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)
        state = {
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "torch_generator": torch.get_rng_state(),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
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
        state = torch.load(path, map_location=self.device, weights_only=True)
        changed = [k for k, v in asdict(self.config).items() if state["config"].get(k) != v]
        if changed:
            raise InputError(
                f"{path}: was started with another {', '.join(changed)}; "
                "repeat the run's own options or start a new one"
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["torch_generator"].cpu())
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.rows = state["rows"]


def train(
    data: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    config: TrainConfig,
    *,
    resume: bool = False,
) -> Path:
    """Train a network and return the path of its checkpoint.

    Args:
        data: LDCTIQA folders.
        out: run folder; created, and must not exist unless ``resume``.
        config: the run's settings.
        resume: continue the run that ``out`` holds.

    Raises:
        InputError: unreadable data, settings out of range, or a run folder that exists.
    """
    if config.crop not in (256, SIZE):
        raise InputError(f"--crop {config.crop}: the network takes crops of 256 or 512 pixels")
    out = Path(out)
    if out.exists() and not resume:
        raise InputError(f"{out}: already exists; use --resume to continue it or name another")
    trainer = Trainer(config, load_slices(data), out)
    if resume:
        trainer.resume()
    else:
        out.mkdir(parents=True)
    trainer.run()
    return out / "model.safetensors"
