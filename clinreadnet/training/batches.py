"""Batches of a run, prefetched to the device.

A batch depends only on (seed, epoch, number of the batch): a resumed run, and each of several
processes, gets the same batches as an uninterrupted run.

A thread gathers slices from memory into a page-locked batch. The copy to a GPU and the augmentation
there are asynchronous.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from clinreadnet.errors import InputError, counted
from clinreadnet.spec import HU_MIN, SIZE, TILE
from clinreadnet.training.augment import Draws, augment, augment_tiles
from clinreadnet.training.dataset import LabelledSlices
from clinreadnet.training.distributed import Ranks

_AHEAD = 4
"""Number of prefetched batches."""

BLANKED_SHARE = 0.25
"""Share of slices with tile labels whose tiles far from the body become air, because table, arms
and cushions must not affect the score."""


class Batch(NamedTuple):
    """Inputs and targets of a step, on the device."""

    inputs: Tensor
    """[b, 1, crop, crop] float32 HU, or [b, 16, 16, C] tokens to train the head."""
    scores: Tensor
    """[b], target of each input: that of its image or, for a crop, of its tiles."""
    tiles: Tensor
    """[b, t, t], quality of each tile, t = crop / 32."""
    weight: Tensor
    """[b, t, t], weight of each tile's label; 0 without a label."""


class BatchSource(Protocol):
    """Source of the batches of a run."""

    @property
    def per_epoch(self) -> int:
        """Steps of one epoch."""

    def after(self, step: int) -> Generator[Batch]:
        """Yield the batches from ``step`` to the end of its epoch."""


def check_batch_size(batch_size: int, slices: int, ranks: Ranks) -> None:
    """Check the batch size against the number of slices and of processes.

    Raises:
        InputError: the batch is larger than the set, or not a multiple of the processes.
    """
    if batch_size > slices:
        raise InputError(f"batch_size={batch_size}: only {counted(slices, 'slice')} to train on")
    if batch_size % ranks.world:
        raise InputError(
            f"batch_size={batch_size}: {ranks.world} processes share a batch; give a multiple"
        )


@dataclass(frozen=True)
class Batches:
    """Shuffled, augmented batches of each epoch. An incomplete last batch is dropped.

    Attributes:
        slices: slices to train on.
        batch_size: slices per step over all processes.
        crop: side of the crops in pixels.
        seed: seed of order and augmentation.
        ranks: this process among all.

    Raises:
        InputError: the batch is larger than the set, or not a multiple of the processes.
    """

    slices: LabelledSlices
    batch_size: int
    crop: int
    seed: int
    ranks: Ranks

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size, len(self.slices), self.ranks)

    @property
    def per_epoch(self) -> int:
        """Steps of one epoch."""
        return len(self.slices) // self.batch_size

    def after(self, step: int) -> Generator[Batch]:
        """Yield the batches from ``step`` to the end of its epoch; b = batch / processes."""
        epoch, number = divmod(step, self.per_epoch)
        order = self._rng(epoch, 0).permutation(len(self.slices))
        numbers = iter(range(number, self.per_epoch))
        with ThreadPoolExecutor(1) as reader:
            ahead = deque(
                reader.submit(self._gather, order, epoch, n) for n in islice(numbers, _AHEAD)
            )
            try:
                while ahead:
                    gathered = ahead.popleft().result()
                    if (n := next(numbers, None)) is not None:
                        ahead.append(reader.submit(self._gather, order, epoch, n))
                    yield self._augmented(gathered.map(self._move))
            finally:
                for future in ahead:
                    future.cancel()

    def _augmented(self, gathered: _Gathered) -> Batch:
        hu, draws = gathered.hu, gathered.draws
        outside = gathered.blanked[:, None, None] & (gathered.weight == 0)
        outside = outside.repeat_interleave(TILE, 1).repeat_interleave(TILE, 2)
        hu = torch.where(outside, torch.full_like(hu, int(HU_MIN)), hu)
        tiles, weight = (augment_tiles(t, draws) for t in (gathered.tiles, gathered.weight))
        scores = gathered.scores
        if self.crop < SIZE:
            # The target of a crop is the quality of its tiles, if known.
            total = weight.sum(dim=(1, 2))
            mean = (tiles * weight).sum(dim=(1, 2)) / total.clamp(min=1e-6)
            scores = torch.where(total > 0, mean, scores)
        return Batch(augment(hu, draws), scores, tiles, weight)

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.ranks.device, non_blocking=True)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _gather(self, order: np.typing.NDArray[np.int64], epoch: int, number: int) -> _Gathered:
        """Return this process's part of a batch with its random parameters."""
        index = order[number * self.batch_size : (number + 1) * self.batch_size]
        share = self.batch_size // self.ranks.world
        part = slice(self.ranks.rank * share, (self.ranks.rank + 1) * share)
        rng = self._rng(epoch, 1 + number)
        tiles = self.slices.tiles_of(index)
        draws = Draws.draw(rng, tiles.weight, SIZE, self.crop, part)
        blanked = (rng.random(len(index)) < BLANKED_SHARE) & tiles.weight.any(axis=(1, 2))
        gathered = _Gathered(
            torch.from_numpy(self.slices.images(index[part])),
            torch.from_numpy(self.slices.scores[index[part]]),
            torch.from_numpy(tiles.quality[part]),
            torch.from_numpy(tiles.weight[part]),
            torch.from_numpy(blanked[part]),
            draws,
        )
        return gathered.map(Tensor.pin_memory) if self.ranks.device.type == "cuda" else gathered


class _Gathered(NamedTuple):
    """A batch before its augmentation."""

    hu: Tensor
    """[b, 512, 512] int16."""
    scores: Tensor
    tiles: Tensor
    weight: Tensor
    blanked: Tensor
    """[b] bool, slices whose tiles far from the body become air."""
    draws: Draws

    def map(self, move: Callable[[Tensor], Tensor]) -> _Gathered:
        """Apply ``move`` to every tensor."""
        return _Gathered(
            move(self.hu),
            move(self.scores),
            move(self.tiles),
            move(self.weight),
            move(self.blanked),
            self.draws.map(move),
        )
