"""HRPS: the hierarchical ranked probability score.

The ranked probability score (Epstein 1969; as a loss, Galdran 2023) keeps the distance between
grades: a vote two grades off costs more than one. HRPS adds the score over the five Likert grades
to the one over the 21 fine grades. Cross-entropy, which does not know that distance, is here for
the ablation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clinreadnet.spec import FINE_GRADES, FINE_STEP, LIKERT


def ranked_probability_score(probs: Tensor, target: Tensor) -> Tensor:
    """Sum of squared differences of the cumulative distributions, over K - 1 (Epstein 1969).

    Args:
        probs: [B, K], probabilities over ordered grades.
        target: [B, K], the true distribution (one-hot for a certain grade).

    Returns:
        [B], 0 (exact) ... 1 (certain of the opposite end).
    """
    difference = (probs - target).cumsum(dim=-1)
    return difference.square().sum(dim=-1) / (probs.shape[-1] - 1)


def fine_distribution(score: Tensor) -> Tensor:
    """Split scores linearly over their two neighbouring fine grades.

    Args:
        score: [B], 0...4.

    Returns:
        [B, 21], rows sum to 1; a score on a grade is one-hot.
    """
    index = torch.arange(FINE_GRADES, device=score.device, dtype=score.dtype)
    return (1 - (score[:, None] / FINE_STEP - index).abs()).clamp(min=0)


def likert_distribution(fine: Tensor) -> Tensor:
    """Aggregate fine grades [B, 21] into the Likert grade nearest to each: [B, 5]."""
    index = torch.arange(FINE_GRADES, device=fine.device)
    # Fine grade k stands for k / 5, so its nearest Likert grade is round(k / 5): never a tie.
    nearest = (index + 2) // 5
    member = nearest[:, None] == torch.arange(len(LIKERT), device=fine.device)
    return fine @ member.to(fine.dtype)


def hrps_loss(probs: Tensor, score: Tensor, *, fine_weight: float = 0.5) -> Tensor:
    """Hierarchical ranked probability score, averaged over the batch.

    Args:
        probs: [B, 21], predicted probabilities of the fine grades.
        score: [B], true scores 0...4, fractional between grades where needed.
        fine_weight: lambda, the share of the fine level; 1 is Epstein's score over 21 grades.

    Returns:
        [], fine_weight * RPS(21 grades) + (1 - fine_weight) * RPS(5 grades).
    """
    target = fine_distribution(score)
    fine = ranked_probability_score(probs, target)
    coarse = ranked_probability_score(likert_distribution(probs), likert_distribution(target))
    return (fine_weight * fine + (1 - fine_weight) * coarse).mean()


def cross_entropy_loss(probs: Tensor, score: Tensor) -> Tensor:
    """Cross-entropy over the fine grades, averaged over the batch: the ablation of HRPS.

    Args:
        probs: [B, 21], predicted probabilities of the fine grades.
        score: [B], true scores 0...4, split over their two neighbouring grades.

    Returns:
        [], in nats.
    """
    # A grade's probability may underflow; its gradient must not be infinite.
    return -(fine_distribution(score) * probs.clamp(min=1e-7).log()).sum(dim=-1).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hrps": hrps_loss,
    "cross-entropy": cross_entropy_loss,
}
"""What a network can be trained with, by the name that `--loss` takes."""
