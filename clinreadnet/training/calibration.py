"""What a trained network is given last: which statistics of edges are usual."""

from __future__ import annotations

import numpy as np
import torch

from clinreadnet.console import progress_bar
from clinreadnet.model.network import ClinReadNet, encode
from clinreadnet.training.dataset import LabelledSlices

NOVELTY_SLICES = 2048
"""Training slices, at most, that say what is usual."""

NOVELTY_QUANTILE = 0.99
"""Share of the held-out slices that lie below the threshold."""

NOVELTY_MARGIN = 1.8
"""Factor on that: held-out slices are of the same simulator and the same scanners, and those of
other scanners may lie farther. It is the geometric mean of two distances of the shipped network
over that quantile: of the farthest slice of a training patient as it was scanned, 1.54, and of
drawn slices that are no abdominal CT, 2.13, which 95 % of them exceed."""


def fit_novelty(
    model: ClinReadNet,
    training: LabelledSlices,
    validation: LabelledSlices,
    seed: int,
) -> None:
    """Tell the network which statistics of edges are usual, and set its threshold.

    Args:
        model: the trained network, in place.
        training: slices that are usual; at most `NOVELTY_SLICES` of them are looked at.
        validation: held-out slices, for the threshold; likewise.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)

    def summaries(slices: LabelledSlices) -> torch.Tensor:
        count = min(NOVELTY_SLICES, len(slices))
        index = np.sort(rng.choice(len(slices), count, replace=False))
        device = next(model.parameters()).device
        found = []
        with progress_bar() as bar, torch.inference_mode():
            for i in bar.track(index.tolist(), description="edge statistics"):
                hu = torch.from_numpy(slices.images(np.array([i]))).to(device)[:, None].float()
                statistics = model.statistics(model.stem(encode(hu)))
                found.append(model.novelty.summary(statistics))
        return torch.cat(found)

    model.eval()
    model.novelty.fit(summaries(training))
    distances = model.novelty.distance(summaries(validation))
    threshold = torch.quantile(distances, NOVELTY_QUANTILE) * NOVELTY_MARGIN
    model.novelty.threshold.copy_(threshold)
