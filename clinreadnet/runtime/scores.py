"""Outputs of the network for slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.data.region import ABDOMEN, OUTSIDE, Region
from clinreadnet.grades import grade_interval
from clinreadnet.physics import SliceFigures

Outputs = Mapping[str, NDArray[Any]]
"""Outputs of a run: ``score`` [n], ``probs`` [n, 21], ``quality_map`` [n, 16, 16] and, except in
older bundles, ``novelty`` [n]."""


_OF_SLICES = ("score", "probs", "quality_map", "novelty", "regions", "figures")
"""Fields of `Scores` with a value for each slice."""

SURE_OF_ABDOMEN = 1.1
"""Factor on the novelty threshold for slices of known pixel size that show an abdomen, so that an
abdomen is not marked for its edges alone."""


@dataclass(frozen=True)
class Scores:
    """Outputs of the network for n slices.

    Attributes:
        score: float32 [n], 0 bad ... 4 excellent.
        probs: float32 [n, 21], probability of the grades 0, 0.2 ... 4.
        quality_map: float32 [n, 16, 16], the score of each 32×32 patch.
        novelty: float32 [n], distance from the training data; None if the bundle lacks this output.
        threshold: novelty above which a slice is out of domain; None if the bundle has no
            threshold.
        regions: body part of each slice, from its pixels; None if not computed.
        figures: noise, size and other figures of each slice, without dose; None if not asked for.
    """

    score: NDArray[np.float32]
    probs: NDArray[np.float32]
    quality_map: NDArray[np.float32]
    novelty: NDArray[np.float32] | None = None
    threshold: float | None = None
    regions: tuple[Region, ...] | None = None
    figures: tuple[SliceFigures, ...] | None = None

    @property
    def in_domain(self) -> NDArray[np.bool_] | None:
        """Whether each slice is like the training data and shows an abdomen or its edge, bool [n].

        None if the bundle has no novelty threshold.
        """
        if self.novelty is None or self.threshold is None:
            return None
        if self.regions is None:
            return np.asarray(self.novelty <= self.threshold)
        most = np.array([self.threshold * _leeway(region) for region in self.regions], np.float32)
        inside = np.array([region.answer != OUTSIDE for region in self.regions])
        return np.asarray((self.novelty <= most) & inside)

    @property
    def low(self) -> NDArray[np.float32]:
        """Lower bounds of the 90 % intervals of the grade, float32 [n]."""
        return grade_interval(self.probs)[0].astype(np.float32)

    @property
    def high(self) -> NDArray[np.float32]:
        """Upper bounds of the 90 % intervals of the grade, float32 [n]."""
        return grade_interval(self.probs)[1].astype(np.float32)

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.score)

    def take(self, index: int) -> Scores:
        """Return the scores of one slice, n = 1."""
        known = {name: getattr(self, name) for name in _OF_SLICES}
        own = {name: x[index : index + 1] for name, x in known.items() if x is not None}
        return replace(self, **own)

    @classmethod
    def join(
        cls,
        parts: Sequence[Outputs],
        threshold: float | None = None,
        regions: Sequence[Region] | None = None,
        figures: Sequence[SliceFigures] | None = None,
    ) -> Scores:
        """Concatenate the outputs of one or more runs; add the bundle's threshold and the rest."""
        joined = parts[0]
        if len(parts) > 1:
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return cls(
            **joined,
            threshold=threshold,
            regions=None if regions is None else tuple(regions),
            figures=None if figures is None else tuple(figures),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Scores]) -> Scores:
        """Concatenate the scores of one or more calls of a session."""
        joined: dict[str, Any] = {}
        for name in _OF_SLICES:
            values = [getattr(part, name) for part in parts]
            if any(value is None for value in values):
                joined[name] = None
            elif isinstance(values[0], tuple):
                joined[name] = tuple(chain(*values))
            else:
                joined[name] = np.concatenate(values)
        return cls(**joined, threshold=parts[0].threshold)


def _leeway(region: Region) -> float:
    sure = region.answer == ABDOMEN and region.area_cm2 is not None
    return SURE_OF_ABDOMEN if sure else 1.0
