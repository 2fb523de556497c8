import json
from pathlib import Path

import numpy as np
import pytest

from clinreadnet.metrics import krocc, plcc, srocc
from clinreadnet.simulator import radiologists

SANE = (25.0, 5.0, 0.2, 0.2)


@pytest.mark.parametrize("which", range(4), ids=["noise", "streak", "edge", "detail"])
def test_quality_falls_with_each_impairment(which):
    tops = (200.0, 60.0, 1.0, 1.0)
    values = []
    for amount in np.linspace(0, tops[which], 30):
        arguments = list(SANE)
        arguments[which] = float(amount)
        values.append(radiologists.quality(*arguments))
    assert (np.diff(values) < 0).all()


def test_quality_spans_the_scale():
    assert radiologists.quality(0, 0, 0, 0) == 4
    assert radiologists.quality(radiologists.HALF_QUALITY, 0, 0, 0) == pytest.approx(2)
    assert 0 < radiologists.quality(500, 0, 0, 0) < 0.1


@pytest.mark.parametrize("quality", [0.0, 1.3, 2.5, 4.0])
def test_votes_are_whole_grades_around_the_quality(quality):
    rng = np.random.default_rng(0)
    ballots = np.array([radiologists.votes(quality, rng) for _ in range(2000)])
    assert ballots.shape == (2000, 5) and ballots.dtype == np.int64
    assert ballots.min() >= 0 and ballots.max() <= 4
    assert ballots.mean() == pytest.approx(quality, abs=0.15)


def test_radiologists_differ_but_not_on_average():
    bias, spread = np.array(radiologists.RADIOLOGISTS).T
    assert len(set(bias)) == 5 and abs(bias.mean()) < 0.05 and (spread > 0).all()


@pytest.mark.parametrize(
    "ballots, mean",
    [([0, 0, 0, 0, 1], 0.2), ([4, 4, 4, 4, 4], 4.0), ([2, 3, 3, 3, 3], 2.8)],
    ids=str,
)
def test_label_is_a_step_of_a_fifth(ballots, mean):
    assert radiologists.mean_opinion(np.array(ballots, np.int64)) == mean


@pytest.fixture(scope="module")
def qualities():
    """Return noiseless qualities of a thousand simulated images, drawn from measured ones."""
    # Recorded by `python -m bench.records.simulated_set DIR --measurements`.
    measured = json.loads(Path(__file__).with_name("simulated_measurements.json").read_text())
    columns = ("noise_hu", "streak_hu", "edge_loss", "detail_loss")
    rows = zip(*(measured[key] for key in columns), strict=True)
    values: list[float] = []
    for row, source in zip(rows, measured["denoised_from"], strict=True):
        own = radiologists.quality(*row)
        values.append(own if source is None else radiologists.copy_quality(own, values[source]))
    return np.array(values)


@pytest.fixture(scope="module", params=range(3))
def ballots(qualities, request):
    rng = np.random.default_rng(request.param)
    return np.array([radiologists.votes(value, rng) for value in qualities])


def test_labels_are_distributed_like_the_challenges(ballots):
    steps = np.rint(ballots.mean(axis=1) * 5).astype(int)
    counts = np.bincount(steps, minlength=21)
    assert len(counts) == 21 and (counts > 0).all()
    real = np.cumsum(radiologists.CHALLENGE_LABELS) / 1000
    assert np.abs(np.cumsum(counts) / len(steps) - real).max() <= 0.1


def test_one_reader_agrees_with_the_others_as_people_do(ballots):
    for radiologist in range(5):
        others = np.delete(ballots, radiologist, axis=1).mean(axis=1)
        assert 0.90 <= srocc(ballots[:, radiologist], others) <= 0.95


def test_the_ceiling_leaves_room_above_the_checkpoints_target(qualities, ballots):
    labels = ballots.mean(axis=1)
    ceiling = sum(metric(qualities, labels) for metric in (plcc, srocc, krocc))
    assert 2.80 < ceiling < 2.95


def test_a_copy_is_rated_on_its_own_but_never_above_its_source():
    assert radiologists.copy_quality(1.0, 2.0) == 1.0 and radiologists.copy_quality(2.5, 2.0) == 2.0
