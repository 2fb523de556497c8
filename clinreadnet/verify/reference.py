"""Compute the float64 reference, and define the sources of slices."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clinreadnet.runtime.scores import Outputs
from clinreadnet.spec import OUTPUTS

if TYPE_CHECKING:
    from clinreadnet.model.network import ClinReadNet


class SliceSource(Protocol):
    """Slices that are read on access, so that large folders do not have to fit in memory."""

    def __len__(self) -> int:
        """Return the number of slices."""
        ...

    def hu(self, index: int) -> NDArray[Any]:
        """Return a slice: [512, 512] Hounsfield units."""
        ...

    def name(self, index: int) -> str:
        """Return the name of a slice for messages."""
        ...


@dataclass(frozen=True)
class GoldenSlices:
    """Golden slices in memory.

    Attributes:
        images: [n, 512, 512] Hounsfield units.
        kinds: kind of each slice, text [n]; None if unknown.
    """

    images: NDArray[Any]
    kinds: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.images)

    def hu(self, index: int) -> NDArray[Any]:
        """Return a slice: [512, 512] Hounsfield units."""
        return np.asarray(self.images[index])

    def name(self, index: int) -> str:
        """Return the index of a slice and its kind."""
        kind = "" if self.kinds is None else f" ({self.kinds[index]})"
        return f"golden slice {index}{kind}"


Advance = Callable[[int], None]
"""Function that is called with the number of slices computed since the last call."""


def reference_outputs(
    model: ClinReadNet, slices: SliceSource, advance: Advance = lambda n: None
) -> Outputs:
    """Run the network in float64.

    Each slice is computed by one thread, so the result does not depend on the number of processors.

    Args:
        model: network in any precision; not changed.
        slices: slices to run it on.
        advance: called after each slice.
    """
    import torch

    model = copy.deepcopy(model).double().eval()

    def run(index: int) -> list[NDArray[Any]]:
        hu = torch.from_numpy(slices.hu(index).astype(np.float64))
        with torch.inference_mode():
            return [output.numpy() for output in model(hu[None, None])]

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    parts: list[list[NDArray[Any]]] = []
    try:
        for part in pool.map(run, range(len(slices))):
            parts.append(part)
            advance(1)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # do not wait for slices after Ctrl-C
        torch.set_num_threads(threads)
    by_output = zip(*parts, strict=True)
    return {name: np.concatenate(part) for name, part in zip(OUTPUTS, by_output, strict=True)}
