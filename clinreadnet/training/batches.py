"""The batches of a run, ready on the device before they are asked for.

What a step sees follows from (seed, epoch, number of the batch) alone: a run that goes on from any
step sees what an uninterrupted one would, and so does each of several processes.

Reading ahead takes one thread: it gathers slices that are in memory into a page-locked batch; the
copy to a GPU and the augmentation on it are then asynchronous.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clinreadnet.errors import InputError
from clinreadnet.spec import SIZE
from clinreadnet.training.augment import Draws, augment
from clinreadnet.training.dataset import LabelledSlices
from clinreadnet.training.distributed import Ranks

_AHEAD = 4
"""Batches gathered before they are asked for."""


class BatchSource(Protocol):
    """What a run takes its batches from."""

    @property
    def per_epoch(self) -> int:
        """Steps of one epoch."""

    def after(self, step: int) -> Generator[tuple[Tensor, Tensor]]:
        """Yield (inputs, [b] scores) from ``step`` to the end of its epoch."""


def check_batch_size(batch_size: int, slices: int, ranks: Ranks) -> None:
    """Refuse a batch that is larger than the set, or that the processes cannot share.

    Raises:
        InputError: saying which.
    """
    if batch_size > slices:
        raise InputError(f"batch_size={batch_size}: only {slices} slices to train on")
    if batch_size % ranks.world:
        raise InputError(
            f"batch_size={batch_size}: {ranks.world} processes share a batch; give a multiple"
        )


@dataclass(frozen=True)
class Batches:
    """A shuffled, augmented pass over the slices each epoch; a ragged rest waits for the next.

    Attributes:
        slices: to train on.
        batch_size: slices of a step, over all processes.
        crop: side of the crops in pixels.
        seed: of order and augmentation.
        ranks: whose share to load.

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

    def after(self, step: int) -> Generator[tuple[Tensor, Tensor]]:
        """Yield the batches from ``step`` to the end of its epoch.

        Yields:
            [b, 1, crop, crop] float32 HU and [b] scores, on the device; b = batch / processes.
        """
        epoch, number = divmod(step, self.per_epoch)
        order = self._rng(epoch, 0).permutation(len(self.slices))
        numbers = iter(range(number, self.per_epoch))
        with ThreadPoolExecutor(1) as reader:
            ahead = deque(
                reader.submit(self._gather, order, epoch, n) for n in islice(numbers, _AHEAD)
            )
            try:
                while ahead:
                    hu, scores, draws = ahead.popleft().result()
                    if (n := next(numbers, None)) is not None:
                        ahead.append(reader.submit(self._gather, order, epoch, n))
                    yield augment(self._move(hu), draws.map(self._move)), self._move(scores)
            finally:
                for future in ahead:
                    future.cancel()

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.ranks.device, non_blocking=True)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _gather(
        self, order: NDArray[np.int64], epoch: int, number: int
    ) -> tuple[Tensor, Tensor, Draws]:
        """Return this process's part of a batch: int16 HU, scores, and what to do to it."""
        index = order[number * self.batch_size : (number + 1) * self.batch_size]
        share = self.batch_size // self.ranks.world
        part = slice(self.ranks.rank * share, (self.ranks.rank + 1) * share)
        rng = self._rng(epoch, 1 + number)
        draws = Draws.draw(rng, self.batch_size, SIZE, self.crop, part)
        hu = torch.from_numpy(self.slices.images(index[part]))
        scores = torch.from_numpy(self.slices.scores[index[part]])
        if self.ranks.device.type == "cuda":
            return hu.pin_memory(), scores.pin_memory(), draws.map(Tensor.pin_memory)
        return hu, scores, draws
