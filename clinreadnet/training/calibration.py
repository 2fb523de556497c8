"""Fit the novelty of a trained network."""

from __future__ import annotations

import numpy as np
import torch

from clinreadnet.console import progress_bar
from clinreadnet.model.network import ClinReadNet
from clinreadnet.model.soqn import encode
from clinreadnet.training.dataset import LabelledSlices

NOVELTY_SLICES = 2048
"""Largest number of training slices for the fit."""

NOVELTY_QUANTILE = 0.99
"""Quantile of the held-out slices' novelty for the threshold."""

NOVELTY_MARGIN = 1.8
"""Factor on that quantile, because slices of other scanners have larger distances than held-out
ones. It is the geometric mean of two ratios of the shipped network: 1.54 for the most distant slice
of a training patient without degradation, and 2.13, which 95 % of drawn slices without abdominal CT
exceed."""


def fit_novelty(
    model: ClinReadNet,
    training: LabelledSlices,
    validation: LabelledSlices,
    seed: int,
) -> None:
    """Fit the edge statistics of the training data and set the novelty threshold.

    Args:
        model: trained network; changed in place.
        training: training slices, of which at most `NOVELTY_SLICES` are used.
        validation: held-out slices for the threshold, limited likewise.
        seed: seed of the selection.
    """
    rng = np.random.default_rng(seed)

    def summaries(slices: LabelledSlices) -> torch.Tensor:
        count = min(NOVELTY_SLICES, len(slices))
        index = np.sort(rng.choice(len(slices), count, replace=False))
        device = next(model.parameters()).device
        parts = []
        with progress_bar() as bar, torch.inference_mode():
            for i in bar.track(index.tolist(), description="edge statistics"):
                hu = torch.from_numpy(slices.images(np.array([i]))).to(device)[:, None].float()
                statistics = model.statistics(model.stem(encode(hu)))
                parts.append(model.novelty.summary(statistics))
        return torch.cat(parts)

    model.eval()
    model.novelty.fit(summaries(training))
    distances = model.novelty.distance(summaries(validation))
    threshold = torch.quantile(distances, NOVELTY_QUANTILE) * NOVELTY_MARGIN
    model.novelty.threshold.copy_(threshold)
