"""Distributed training with `torchrun`, or a single process."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import ArrayLike, NDArray

from clinreadnet.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """Rank of this process. With a world size of 1 there is no communication."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def reduce(self, values: ArrayLike, how: str) -> NDArray[np.float64]:
        """Reduce values over all processes by "sum" or "max", in float64 on the CPU."""
        tensor = torch.from_numpy(np.array(values, np.float64))
        if self.world > 1:
            op = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[how]
            dist.all_reduce(tensor, op)
        return tensor.numpy()

    def mine(self, items: Sequence[int]) -> Sequence[int]:
        """Return the items of this process."""
        return items[self.rank :: self.world]


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the process group of `torchrun`, and leave it at the end.

    Raises:
        InputError: there are more processes than GPUs on this machine.
    """
    world, local = (int(os.environ.get(name, d)) for name, d in _VARIABLES)
    gpus = torch.cuda.device_count()
    if gpus and local >= gpus:
        raise InputError(f"{local + 1} processes or more for {gpus} GPUs; one process a GPU")
    device = torch.device("cuda", local) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    if world == 1:
        yield Ranks(device=device)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    try:
        yield Ranks(dist.get_rank(), world, device)
    finally:
        # DistributedDataParallel refers to the group and is part of reference cycles. If it lives
        # until the interpreter ends, Gloo's threads sometimes abort the process.
        gc.collect()
        dist.destroy_process_group()


_VARIABLES = (("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
