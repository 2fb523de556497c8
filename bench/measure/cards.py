"""GPUs whose rates bound the kernels in docs/kernels.md."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A GPU, from its data sheet, or as measured where ``copied`` is given.

    Attributes:
        name: product name.
        gigabytes: memory bandwidth in GB/s.
        multiprocessors: number of multiprocessors.
        gigahertz: clock in GHz: the boost clock, or the clock under load.
        copied: bytes that a large copy reads and writes in GB/s, measured; None if it is not known.
            A copy is then assumed to reach 90 % of the bandwidth.
        cache_gigabytes: bandwidth of the L2 cache in GB/s; None if it is not known.
        teraflops: rate of dense bfloat16 products in TFLOP/s, measured; None if it is not known.
    """

    name: str
    gigabytes: float
    multiprocessors: int
    gigahertz: float
    copied: float | None = None
    cache_gigabytes: float | None = None
    teraflops: float | None = None

    @property
    def copy(self) -> float:
        """Bytes per cycle and multiprocessor of a copy."""
        copied = 0.9 * self.gigabytes if self.copied is None else self.copied
        return self._by_cycle(copied)

    @property
    def cache(self) -> float | None:
        """Bytes per cycle and multiprocessor that are read from the L2 cache; None if unknown."""
        return None if self.cache_gigabytes is None else self._by_cycle(self.cache_gigabytes)

    @property
    def products(self) -> float | None:
        """Operations of 16-bit products per cycle and multiprocessor; None if unknown."""
        return None if self.teraflops is None else self._by_cycle(1000 * self.teraflops)

    def _by_cycle(self, giga: float) -> float:
        return giga / self.multiprocessors / self.gigahertz


CARDS = {
    75: Card("T4", 320, 40, 1.59),
    80: Card("A100 40GB", 1555, 108, 1.41),
    86: Card("A10", 600, 72, 1.695),
    89: Card("L4", 300, 58, 2.04),
    90: Card("H100 SXM", 3352, 132, 1.755),
    100: Card("B200", 8000, 148, 1.965),
    120: Card("RTX 5090", 1792, 170, 2.407),
}
"""Reference of the recorded ceilings, by compute capability."""

H200 = Card("H200", 4800, 132, 1.98, copied=4300, cache_gigabytes=5500, teraflops=790)

ALL = ((90, H200), *CARDS.items())
"""Every card with its compute capability."""


def find_card(gpu: str) -> tuple[int, Card] | None:
    """Return the compute capability and the card of a GPU, by its name in CUDA, or None."""
    words = re.split(r"[^A-Za-z0-9]+", gpu)
    for capability, card in ALL:
        models = card.name.split()
        if (models[1] if models[0] == "RTX" else models[0]) in words:
            return capability, card
    return None
