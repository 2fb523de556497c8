"""Outputs of the network for slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]
"""One run's ``score`` [n], ``probs`` [n, 21] and ``quality_map`` [n, 16, 16]."""


@dataclass(frozen=True)
class Scores:
    """Outputs of the network for n slices.

    Attributes:
        score: float32 [n], 0 bad ... 4 excellent.
        probs: float32 [n, 21], probability of the grades 0, 0.2 ... 4.
        quality_map: float32 [n, 16, 16], the score of each 32×32 patch.
    """

    score: NDArray[np.float32]
    probs: NDArray[np.float32]
    quality_map: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.score)

    def take(self, index: int) -> Scores:
        """Return the scores of one slice, n = 1."""
        one = slice(index, index + 1)
        return Scores(self.score[one], self.probs[one], self.quality_map[one])

    @classmethod
    def join(cls, parts: Sequence[Outputs]) -> Scores:
        """Return the concatenated scores of one or more runs."""
        if len(parts) == 1:
            return cls(**parts[0])
        return cls(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
