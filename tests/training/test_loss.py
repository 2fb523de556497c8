import math

import pytest
import torch

from clinreadnet.training.loss import (
    WEIGHT_SHARE,
    fine_distribution,
    hrps_loss,
    likert_distribution,
    ranked_probability_score,
    tile_loss,
)


def one_hot(index: int, classes: int = 21) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor([index]), classes).double()


def test_rps_of_epsteins_kind_by_hand() -> None:
    """Three ordered classes, forecast (0.2, 0.5, 0.3), the first one happens."""
    probs = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    # Cumulative: 0.2, 0.7, 1 against 1, 1, 1 -> (0.64 + 0.09) / 2.
    assert ranked_probability_score(probs, one_hot(0, 3)).item() == pytest.approx(0.365)


def test_rps_is_the_mean_brier_score_of_the_thresholds() -> None:
    """Epstein (1969): the score is the mean of (K - 1) binary ones."""
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(7, 21, generator=generator, dtype=torch.float64)
    probs /= probs.sum(-1, keepdim=True)
    truth = torch.randint(21, (7,), generator=generator)
    target = torch.nn.functional.one_hot(truth, 21).double()
    brier = [(probs[:, : k + 1].sum(-1) - (truth <= k).double()) ** 2 for k in range(20)]
    expected = torch.stack(brier).mean(0)
    torch.testing.assert_close(ranked_probability_score(probs, target), expected)


@pytest.mark.parametrize(
    ("vote", "truth", "expected"),
    [
        pytest.param(10, 2.0, 0.0, id="exact"),
        pytest.param(0, 4.0, 1.0, id="opposite-end"),
        # One fine grade off, inside one Likert grade: 1/20 on the fine level only.
        pytest.param(11, 2.0, 0.5 / 20, id="same-likert-grade"),
        # 2.4 -> 2.6 crosses from fair to good: 1/20 fine, 1/4 coarse.
        pytest.param(13, 2.4, 0.5 / 20 + 0.5 / 4, id="next-likert-grade"),
    ],
)
def test_hrps_by_hand(vote: int, truth: float, expected: float) -> None:
    loss = hrps_loss(one_hot(vote), torch.tensor([truth], dtype=torch.float64))
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_one_level_is_epsteins_score() -> None:
    probs = torch.full((1, 21), 1 / 21, dtype=torch.float64)
    score = torch.tensor([1.4], dtype=torch.float64)
    assert hrps_loss(probs, score, fine_weight=1.0).item() == pytest.approx(
        ranked_probability_score(probs, one_hot(7)).item()
    )


def test_distance_between_grades_counts() -> None:
    score = torch.tensor([3.0], dtype=torch.float64)
    losses = [hrps_loss(one_hot(k), score).item() for k in range(16)]
    assert losses == sorted(losses, reverse=True)


def test_fractional_targets_split_linearly() -> None:
    target = fine_distribution(torch.tensor([1.25, 0.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(target.sum(-1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(target[0, 6:8], torch.tensor([0.75, 0.25], dtype=torch.float64))
    assert target[1, 0] == 1 and target[2, 20] == 1


def test_likert_grades_partition_the_fine_ones() -> None:
    members = likert_distribution(torch.eye(21))
    assert members.sum(0).tolist() == [3, 5, 5, 5, 3]
    assert members.argmax(1).tolist() == [round(k / 5) for k in range(21)]


def test_gradient_is_finite_and_points_to_the_truth() -> None:
    logits = torch.zeros(1, 21, requires_grad=True)
    hrps_loss(logits.softmax(-1), torch.tensor([3.0])).mean().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert logits.grad.argmin().item() in range(14, 18)


def test_the_loss_of_tiles_is_weighted_by_body() -> None:
    torch.manual_seed(0)
    votes = torch.randn(2, 4, 21, dtype=torch.float64).softmax(-1)
    quality, body = torch.rand(2, 4).double() * 4, torch.tensor([[1, 0.5, 0, 0], [0, 0, 0, 0.0]])
    weights = torch.full((2, 4), 0.25, dtype=torch.float64)
    loss = tile_loss(votes, weights, quality, body.double())
    each = hrps_loss(votes.flatten(0, 1), quality.flatten()).reshape(2, 4)
    of_weights = -math.log(0.25)  # of the first slice, whose aim is (2/3, 1/3, 0, 0)
    expected = (each[0, 0] + 0.5 * each[0, 1]) / 1.5 + WEIGHT_SHARE * of_weights
    assert loss.item() == pytest.approx(expected.item())
    assert tile_loss(votes, weights, quality, torch.zeros(2, 4).double()).item() == 0


def test_votes_that_weigh_as_much_as_their_body_lose_least() -> None:
    votes = torch.full((1, 4, 21), 1 / 21)
    quality, body = torch.ones(1, 4), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    on_body, on_air = torch.tensor([[0.5, 0.5, 0, 0]]), torch.tensor([[0, 0, 0.5, 0.5]])
    good, bad = (tile_loss(votes, weights, quality, body) for weights in (on_body, on_air))
    assert good < bad
