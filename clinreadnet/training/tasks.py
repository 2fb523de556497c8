"""Training tasks: the whole network on crops, or only the head on whole slices.

A task provides the network, its trained part, the batches, and the scoring of held-out slices.
`clinreadnet.training.trainer` is the same for all tasks.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clinreadnet.console import progress_bar
from clinreadnet.errors import InputError
from clinreadnet.model.checkpoint import load_checkpoint
from clinreadnet.model.network import ClinReadNet, ClinReadNetConfig
from clinreadnet.model.predict import predict
from clinreadnet.model.soqn import TileVotes, encode
from clinreadnet.processor import multiplies_bfloat16
from clinreadnet.training.batches import Batch, Batches, BatchSource, check_batch_size
from clinreadnet.training.config import TrainConfig
from clinreadnet.training.dataset import LabelledSlices
from clinreadnet.training.distributed import Ranks

CALIBRATION_SLICES = 64
"""Number of training slices for the standardisation of edge statistics."""


class Task(Protocol):
    """Interface of a task."""

    model: ClinReadNet
    """Network to write at the end."""
    learner: nn.Module
    """Module from inputs of a batch to the probabilities [b, 21] and the tiles' votes."""

    @property
    def batches(self) -> BatchSource:
        """The training batches, in order."""

    def predict(self, model: ClinReadNet, index: Sequence[int]) -> dict[str, NDArray[np.float64]]:
        """Score the held-out slices ``index`` [k] with ``model``: score, probs, quality_map."""


def runs_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Return whether the network's products run in bfloat16 on a device.

    A processor without the instructions emulates them, which takes several times as long as
    float32: there the products stay in float32.
    """
    if device.type == "cuda":
        return config.bf16 is not False
    return bool(config.bf16) and multiplies_bfloat16() is not False


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Return the context in which the network's products run, see `runs_bfloat16`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=runs_bfloat16(config, device))


def make_task(
    config: TrainConfig, training: LabelledSlices, validation: LabelledSlices, ranks: Ranks
) -> Task:
    """Return the task of a configuration, with its network on the device.

    Raises:
        InputError: the checkpoint cannot be used, or the batch does not fit the data.
    """
    if config.task == "network":
        return NetworkTask(config, training, validation, ranks)
    return HeadTask(config, training, validation, ranks)


def first_model(config: TrainConfig) -> ClinReadNet:
    """Return the network of a configuration, from its checkpoint or with random weights.

    Raises:
        InputError: the checkpoint cannot be read, or its network has another shape.
    """
    shape = replace(
        ClinReadNetConfig.from_preset(config.preset),
        use_sobel=config.use_sobel,
        use_attention=config.use_attention,
        octaves=config.octaves,
    )
    if config.init is None:
        return ClinReadNet(shape)
    model = load_checkpoint(config.init, preset=config.preset)
    if model.config != shape:
        differing = [k for k, v in vars(shape).items() if getattr(model.config, k) != v]
        raise InputError(
            f"{config.init}: is of a network with another {', '.join(differing)}; give that of the "
            "run, or another checkpoint"
        )
    return model


class _Learner(nn.Module):
    """Wrapper of the network for the trainer."""

    def __init__(self, model: ClinReadNet):
        super().__init__()
        self.model = model

    def forward(self, hu: Tensor) -> tuple[Tensor, TileVotes]:
        """[b, 1, H, W] HU -> probabilities of the image's grades [b, 21], the tiles' votes."""
        prediction, votes = self.model.predict(hu)
        return prediction.probs, votes


class NetworkTask:
    """Trains the whole network on crops."""

    def __init__(
        self,
        config: TrainConfig,
        training: LabelledSlices,
        validation: LabelledSlices,
        ranks: Ranks,
    ):
        self._validation = validation
        self.model = first_model(config)
        if config.init is None:
            few = min(CALIBRATION_SLICES, len(training))
            first = Batches(training, few, config.crop, config.seed, Ranks())
            self.model.calibrate(next(first.after(0)).inputs)
        self.model.to(ranks.device)
        self.learner: nn.Module = _Learner(self.model)
        if config.compile:
            self.learner.compile(dynamic=False)
        repeated = training.with_denoised_repeated(config.denoised_repeats)
        self.batches = Batches(repeated, config.batch_size, config.crop, config.seed, ranks)

    def predict(self, model: ClinReadNet, index: Sequence[int]) -> dict[str, NDArray[np.float64]]:
        """Score whole held-out slices."""
        return predict(model, self._validation.images(np.asarray(index, np.int64)))


class _HeadLearner(nn.Module):
    """Wrapper of the head for the trainer."""

    def __init__(self, model: ClinReadNet):
        super().__init__()
        self.head = model.head

    def forward(self, tokens: Tensor) -> tuple[Tensor, TileVotes]:
        """[b, 16, 16, C] tokens -> probabilities of the image's grades [b, 21], tiles' votes."""
        _, probs, _, votes = self.head(tokens)
        return probs, votes


@dataclass(frozen=True)
class TokenBatches:
    """Shuffled batches of tokens of each epoch.

    Attributes:
        tokens: [n, 16, 16, C] float16 on the CPU, for the slices of this process.
        slices: all slices to train on.
        share: [n] indices of the slices of this process.
        batch: slices per step of this process.
        per_epoch: steps of one epoch.
        seed: seed of the order.
        device: device of the batches.
    """

    tokens: Tensor
    slices: LabelledSlices
    share: NDArray[np.int64]
    batch: int
    per_epoch: int
    seed: int
    device: torch.device

    def after(self, step: int) -> Generator[Batch]:
        """Yield the batches from ``step`` to the end of its epoch."""
        epoch, number = divmod(step, self.per_epoch)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,)))
        order = rng.permutation(len(self.share))
        for n in range(number, self.per_epoch):
            chosen = np.sort(order[n * self.batch : (n + 1) * self.batch])
            index = self.share[chosen]
            tiles = self.slices.tiles_of(index)
            yield Batch(
                self.tokens[torch.from_numpy(chosen)].to(self.device).float(),
                *(
                    torch.from_numpy(part).to(self.device)
                    for part in (self.slices.scores[index], tiles.quality, tiles.weight)
                ),
            )


class HeadTask:
    """Trains the head on tokens of whole slices, which are computed once.

    Training on crops fits the head to crops, but a label belongs to the whole slice.
    """

    def __init__(
        self,
        config: TrainConfig,
        training: LabelledSlices,
        validation: LabelledSlices,
        ranks: Ranks,
    ):
        check_batch_size(config.batch_size, len(training), ranks)
        self.model = model = first_model(config).to(ranks.device).eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        model.head.requires_grad_(True)
        self.learner: nn.Module = _HeadLearner(model)
        self._config, self._ranks = config, ranks
        mine = np.asarray(ranks.mine(range(len(training))), np.int64)
        held_out = np.asarray(ranks.mine(range(len(validation))), np.int64)
        self._held_out = self._tokens(validation, held_out, "held out")
        self._place = {int(index): place for place, index in enumerate(held_out)}
        self.batches: BatchSource = TokenBatches(
            tokens=self._tokens(training, mine, "training"),
            slices=training,
            share=mine,
            batch=config.batch_size // ranks.world,
            per_epoch=len(training) // config.batch_size,
            seed=config.seed,
            device=ranks.device,
        )

    def predict(self, model: ClinReadNet, index: Sequence[int]) -> dict[str, NDArray[np.float64]]:
        """Score held-out slices from their tokens."""
        parts: dict[str, list[NDArray[np.float64]]] = {"score": [], "probs": [], "quality_map": []}
        tokens = self._held_out[[self._place[i] for i in index]]
        model.eval()
        with torch.inference_mode():
            for part in tokens.split(64):
                outputs = model.head(part.to(self._ranks.device).float())
                for name, output in zip(parts, outputs[:3], strict=True):
                    parts[name].append(output.double().cpu().numpy())
        return {name: np.concatenate(part) for name, part in parts.items()}

    def _tokens(self, slices: LabelledSlices, index: NDArray[np.int64], what: str) -> Tensor:
        """Compute the last tokens of slices: [n, 16, 16, C] float16, on the CPU."""
        cached = torch.empty(0)
        device = self._ranks.device
        with (
            progress_bar(quiet=not self._ranks.first) as bar,
            torch.inference_mode(),
            autocast(self._config, device),
        ):
            for n in bar.track(range(len(index)), description=f"tokens, {what}"):
                hu = torch.from_numpy(slices.images(index[n : n + 1])).to(device)
                tokens = self.model.attend(self.model.stem(encode(hu[:, None].float())))
                if n == 0:
                    cached = torch.empty(len(index), *tokens.shape[1:], dtype=torch.float16)
                cached[n] = tokens[0]
        return cached
