"""HRPS: the hierarchical ranked probability score.

The ranked probability score (Epstein 1969; as a loss, Galdran 2023) takes the distance between
grades into account: an error of two grades costs more than an error of one. HRPS combines the score
over the five Likert grades with that over the 21 fine grades. The two single levels and
cross-entropy, which ignores the distance, are for ablations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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
    # Fine grade k is k / 5, so its nearest Likert grade is round(k / 5), without ties.
    nearest = (index + 2) // 5
    member = nearest[:, None] == torch.arange(len(LIKERT), device=fine.device)
    return fine @ member.to(fine.dtype)


def hrps_loss(probs: Tensor, score: Tensor, *, fine_weight: float = 0.5) -> Tensor:
    """Hierarchical ranked probability score of each prediction.

    Args:
        probs: [B, 21], predicted probabilities of the fine grades.
        score: [B], true scores 0...4; values between grades are allowed.
        fine_weight: weight lambda of the fine level; 1 is Epstein's score over 21 grades.

    Returns:
        [B], fine_weight * RPS(21 grades) + (1 - fine_weight) * RPS(5 grades).
    """
    target = fine_distribution(score)
    fine = ranked_probability_score(probs, target)
    coarse = ranked_probability_score(likert_distribution(probs), likert_distribution(target))
    return fine_weight * fine + (1 - fine_weight) * coarse


def cross_entropy_loss(probs: Tensor, score: Tensor) -> Tensor:
    """Cross-entropy over the fine grades, for the ablation of HRPS.

    Args:
        probs: [B, 21], predicted probabilities of the fine grades.
        score: [B], true scores 0...4, split over their two neighbouring grades.

    Returns:
        [B], in nats.
    """
    # A probability can underflow; the gradient must stay finite.
    return -(fine_distribution(score) * probs.clamp(min=1e-7).log()).sum(dim=-1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hrps": hrps_loss,
    "rps-fine": partial(hrps_loss, fine_weight=1.0),
    "rps-coarse": partial(hrps_loss, fine_weight=0.0),
    "cross-entropy": cross_entropy_loss,
}
"""Losses by the name in `--loss`."""

WEIGHT_SHARE = 0.05 / 3
"""Share of the loss of the votes' weights in the tile loss."""


def tile_loss(
    votes: Tensor,
    weights: Tensor,
    quality: Tensor,
    body: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] = hrps_loss,
) -> Tensor:
    """Loss of the tiles' votes and of their weights.

    Args:
        votes: [B, N, 21], probability of each grade.
        weights: [B, N], weights of the votes; rows sum to 1.
        quality: [B, N], true quality of each tile.
        body: [B, N], weight of each label (share of body); rows can be 0.
        loss: loss of a vote.

    Returns:
        [], mean loss of labelled tiles, plus a share of the cross-entropy between ``weights`` and
        ``body``; 0 without labels.
    """
    total = body.sum()
    if total <= 0:
        return votes.sum() * 0
    each = loss(votes.flatten(0, 1), quality.flatten()).reshape(body.shape)
    shares = body.sum(dim=1, keepdim=True)
    aim = body / shares.clamp(min=1e-6)
    seen = -(aim * weights.clamp(min=1e-7).log()).sum(dim=1)
    labelled = (shares[:, 0] > 0).to(seen)
    of_weights = (seen * labelled).sum() / labelled.sum()
    return (each * body).sum() / total + WEIGHT_SHARE * of_weights
