"""Train a new view of the edges on a frozen stem: `clinreadnet train --statistics-only`.

What the head makes of the statistics of edges learns from few numbers of each slice, and wants many
steps over many slices. The stem sees each slice once, whole and as it is; then a step costs less
than a hundredth of the network's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clinreadnet.console import progress_bar
from clinreadnet.model.checkpoint import load_parts
from clinreadnet.model.network import ClinReadNet, ClinReadNetConfig
from clinreadnet.model.soqn import OrdinalHead, Prediction
from clinreadnet.training.batches import check_batch_size
from clinreadnet.training.dataset import LabelledSlices
from clinreadnet.training.trainer import CALIBRATION_SLICES, Trainer

WINDOWS = ((0.6, 3 / 16), (1.0, 9 / 16))
"""Least side of the window of a slice that a step sees, as a share of the slice's, up to a share of
the run. A window is another mix of tissues, as another anatomy would be; whole slices are so few
that they are learned by heart. In the end windows are large, as what is scored is whole."""


class StatisticsHead(nn.Module):
    """What a head says whose tokens do not vote: the statistics of edges alone.

    Args:
        head: whose parameters these are.
    """

    def __init__(self, head: OrdinalHead):
        super().__init__()
        self.head = head

    def forward(self, stem: Tensor) -> Prediction:
        """[B, H', W', E] -> score [B], probs [B, 21], quality_map [B, 1, 1]."""
        prediction: Prediction = self.head.from_statistics(stem)
        return prediction


def draw_span(rng: np.random.Generator, side: int, least: float) -> slice:
    """Draw which of ``side`` rows, or columns, of tokens a step sees.

    Args:
        rng: source of the choice.
        side: how many there are.
        least: length of the shortest span, as a share of ``side``.

    Returns:
        A span of neighbours, or where it is longer than half of ``side`` every second of them.
    """
    shortest = max(1, round(least * side))
    length = int(rng.integers(shortest, side + 1))
    first = int(rng.integers(side - length + 1))
    return slice(first, first + length, 1 if length <= side // 2 else 2)


@dataclass(frozen=True)
class TokenBatches:
    """A shuffled pass over this process's slices each epoch.

    Attributes:
        tokens: [n, 64, 64, C] float16 on the CPU, of this process's share of the slices.
        scores: [n] of the same.
        batch: slices of a step, of this process.
        per_epoch: steps of one epoch.
        seed: of the order and the windows.
        device: where the batches are wanted.
        progress: tells which share of the run is done, 0...1.
    """

    tokens: Tensor
    scores: NDArray[np.float32]
    batch: int
    per_epoch: int
    seed: int
    device: torch.device
    progress: Callable[[], float]

    def after(self, step: int) -> Generator[tuple[Tensor, Tensor]]:
        """Yield the batches from ``step`` to the end of its epoch, each a window of its slices.

        Yields:
            [b, h, w, C] float32 tokens and [b] scores, on the device.
        """
        epoch, number = divmod(step, self.per_epoch)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,)))
        order = rng.permutation(len(self.scores))
        of_step = rng.spawn(self.per_epoch)
        for n in range(number, self.per_epoch):
            index = np.sort(order[n * self.batch : (n + 1) * self.batch])
            done = self.progress()
            least = next(least for share, least in WINDOWS if done <= share)
            rows, columns = (draw_span(of_step[n], side, least) for side in self.tokens.shape[1:3])
            tokens = self.tokens[torch.from_numpy(index), rows, columns]
            scores = torch.from_numpy(self.scores[index])
            yield tokens.to(self.device).float(), scores.to(self.device)


class StatisticsTrainer(Trainer):
    """A run that trains a head anew, as far as it looks at the statistics of edges.

    Stem and stages are those of ``config.init``; the votes of tokens start at nothing.
    """

    def _first_model(self, shape: ClinReadNetConfig) -> ClinReadNet:
        assert self.config.init is not None
        model = ClinReadNet(shape)
        load_parts(model, self.config.init, ["stem", "stages"] if shape.depths else ["stem"])
        nn.init.zeros_(model.head.vote.weight)
        trained = {*model.head.edges.parameters(), *model.head.prior.parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(parameter in trained)
        return model

    def _first_batches(self) -> TokenBatches:
        config, ranks = self.config, self.ranks
        check_batch_size(config.batch_size, len(self.training), ranks)
        self.held_out = self._tokens(self.validation, "held out")
        tokens = self._tokens(self.training, "training")
        edges, shuffled = self.model.head.edges, torch.randperm(len(tokens))
        few = tokens[shuffled[:CALIBRATION_SLICES]].to(ranks.device).float().split(1)
        edges.calibrate(torch.cat([edges.raw(one) for one in few]))
        return TokenBatches(
            tokens=tokens,
            scores=self.training.scores[ranks.rank :: ranks.world],
            batch=config.batch_size // ranks.world,
            per_epoch=len(self.training) // config.batch_size,
            seed=config.seed,
            device=ranks.device,
            progress=self.progress,
        )

    def _tokens(self, slices: LabelledSlices, what: str) -> Tensor:
        """Compute the tokens of this process's share: [n, 64, 64, C] float16, on the CPU."""
        mine = np.asarray(self.ranks.mine(range(len(slices))), np.int64)
        found = torch.empty(0)
        with progress_bar(quiet=not self.ranks.first) as bar, torch.no_grad():
            for n, index in enumerate(bar.track(mine, description=f"tokens, {what}")):
                hu = torch.from_numpy(slices.images(index[None])).to(self.ranks.device)
                one = self.model.edge_tokens(hu[:, None].float())
                if n == 0:
                    found = torch.empty(len(mine), *one.shape[1:], dtype=torch.float16)
                found[n] = one[0]
        return found

    def _trained_part(self) -> nn.Module:
        return StatisticsHead(self.model.head)

    def _predict(self, index: Sequence[int]) -> NDArray[np.float64]:
        scores = []
        self.ema.eval()
        with torch.inference_mode():
            for tokens in self.held_out.split(16):
                part = tokens.to(self.ranks.device).float()
                scores.append(self.ema.head.from_statistics(part).score.double().cpu().numpy())
        return np.concatenate(scores)
