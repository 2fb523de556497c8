"""The float64 reference, and the slices that it is computed on."""

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
    """SliceSource that are read when asked for: a thousand would not fit some machines' memory."""

    def __len__(self) -> int:
        """Return the number of slices."""
        ...

    def hu(self, index: int) -> NDArray[Any]:
        """Return one slice: [512, 512], Hounsfield units."""
        ...

    def name(self, index: int) -> str:
        """Return the name of that slice, for a person."""
        ...


@dataclass(frozen=True)
class GoldenSlices:
    """SliceSource in memory.

    Attributes:
        images: [n, 512, 512], Hounsfield units.
        kinds: what each shows, text [n]; None where nobody says.
    """

    images: NDArray[Any]
    kinds: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.images)

    def hu(self, index: int) -> NDArray[Any]:
        """Return one slice: [512, 512]."""
        return np.asarray(self.images[index])

    def name(self, index: int) -> str:
        """Return the number of a slice, from 0, and what it shows."""
        kind = "" if self.kinds is None else f" ({self.kinds[index]})"
        return f"golden slice {index}{kind}"


Advance = Callable[[int], None]
"""Called with the number of slices computed since the last call."""


def reference_outputs(
    model: ClinReadNet, slices: SliceSource, advance: Advance = lambda n: None
) -> Outputs:
    """Run the network in float64.

    One thread computes each slice, so the number of processors changes neither the sums nor the
    bytes of a golden file.

    Args:
        model: network in any precision; it is not changed.
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
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for a slice
        torch.set_num_threads(threads)
    by_output = zip(*parts, strict=True)
    return {name: np.concatenate(part) for name, part in zip(OUTPUTS, by_output, strict=True)}
