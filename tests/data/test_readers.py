import numpy as np
import pytest

from clinreadnet.data import readers

SANE = (25.0, 5.0, 0.2, 0.2)


@pytest.mark.parametrize("which", range(4), ids=["noise", "streak", "edge", "detail"])
def test_quality_falls_with_each_impairment(which):
    tops = (200.0, 60.0, 1.0, 1.0)
    values = []
    for amount in np.linspace(0, tops[which], 30):
        arguments = list(SANE)
        arguments[which] = float(amount)
        values.append(readers.quality(*arguments))
    assert (np.diff(values) < 0).all()


def test_quality_spans_the_scale():
    assert readers.quality(0, 0, 0, 0) == 4
    assert readers.quality(readers.HALF_QUALITY, 0, 0, 0) == pytest.approx(2)
    assert 0 < readers.quality(500, 0, 0, 0) < 0.1


@pytest.mark.parametrize("quality", [0.0, 1.3, 2.5, 4.0])
def test_votes_are_whole_grades_around_the_quality(quality):
    rng = np.random.default_rng(0)
    ballots = np.array([readers.votes(quality, rng) for _ in range(2000)])
    assert ballots.shape == (2000, 5) and ballots.dtype == np.int64
    assert ballots.min() >= 0 and ballots.max() <= 4
    assert ballots.mean() == pytest.approx(quality, abs=0.15)


def test_readers_differ_but_not_on_average():
    bias, spread = np.array(readers.READERS).T
    assert len(set(bias)) == 5 and abs(bias.mean()) < 0.05 and (spread > 0).all()


@pytest.mark.parametrize(
    "ballots, mean",
    [([0, 0, 0, 0, 1], 0.2), ([4, 4, 4, 4, 4], 4.0), ([2, 3, 3, 3, 3], 2.8)],
    ids=str,
)
def test_label_is_a_step_of_a_fifth(ballots, mean):
    assert readers.mean_opinion(np.array(ballots, np.int64)) == mean
