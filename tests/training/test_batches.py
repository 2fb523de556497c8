from dataclasses import replace

import numpy as np
import pytest
import torch

from clinreadnet.data.tiles import TileLabels
from clinreadnet.errors import InputError
from clinreadnet.training.batches import Batches
from clinreadnet.training.dataset import LabelledSlices
from clinreadnet.training.distributed import Ranks


@pytest.fixture(scope="module")
def slices() -> LabelledSlices:
    rng = np.random.default_rng(0)
    hu = rng.integers(-1000, 400, (10, 512, 512)).astype(np.int16)
    scores = np.arange(10, dtype=np.float32)
    grid = np.zeros((10, 16, 16), np.float32)
    return LabelledSlices(
        hu,
        np.arange(10),
        scores,
        scores,
        np.arange(10),
        np.zeros(10, np.bool_),
        TileLabels(grid, grid),
    )


def batches(slices: LabelledSlices, batch_size: int = 4, seed: int = 0, ranks: Ranks | None = None):
    return Batches(slices, batch_size, 256, seed, ranks or Ranks())


def test_an_epoch_shows_each_slice_once_and_epochs_differ(slices: LabelledSlices) -> None:
    two = batches(slices, 5)
    first, second = (
        [s for batch in two.after(step) for s in batch.scores.tolist()] for step in (0, 2)
    )
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_a_ragged_rest_is_left_to_the_next_epoch(slices: LabelledSlices) -> None:
    assert batches(slices).per_epoch == 2
    assert [len(batch.scores) for batch in batches(slices).after(0)] == [4, 4]


def test_the_seed_decides_and_a_later_start_sees_the_same(slices: LabelledSlices) -> None:
    whole, again = list(batches(slices, 2).after(5)), list(batches(slices, 2).after(7))
    for first, second in zip(whole[2:], again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    other, *_ = batches(slices, 2, seed=1).after(5)
    assert not torch.equal(whole[0].inputs, other.inputs)


def test_ranks_share_the_batch_of_one(slices: LabelledSlices) -> None:
    whole, *_ = batches(slices).after(0)
    parts = [next(batches(slices, ranks=Ranks(rank, 2)).after(0)) for rank in (0, 1)]
    for field, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat(shares), field)


def labelled(slices: LabelledSlices) -> LabelledSlices:
    rng = np.random.default_rng(1)
    quality = rng.random((10, 16, 16)).astype(np.float32)
    weight = np.ones((10, 16, 16), np.float32)
    weight[:, :, :4] = 0
    return replace(slices, tiles=TileLabels(quality, weight))


def test_a_crop_is_as_good_as_its_tiles(slices: LabelledSlices) -> None:
    batch, *_ = batches(labelled(slices)).after(0)
    assert batch.tiles.shape == batch.weight.shape == (4, 8, 8)
    expected = (batch.tiles * batch.weight).sum((1, 2)) / batch.weight.sum((1, 2))
    torch.testing.assert_close(batch.scores, expected)
    whole, *_ = replace(batches(labelled(slices)), crop=512).after(0)
    assert set(whole.scores.tolist()) <= set(range(10)), "a whole slice keeps its image's label"


def test_some_slices_lose_what_lies_outside_the_body(slices: LabelledSlices) -> None:
    seen = [b for step in range(0, 40, 2) for b in batches(labelled(slices)).after(step)]
    air, body = [], []
    for batch in seen:
        for hu, weight in zip(batch.inputs[:, 0], batch.weight, strict=True):
            outside = (weight == 0).repeat_interleave(32, 0).repeat_interleave(32, 1)
            if outside.any():
                air.append(bool((hu[outside] == -1000).all()))
            body.append(bool((hu[~outside] == -1000).all()))
    assert 0.1 < np.mean(air) < 0.4 and not any(body)


@pytest.mark.parametrize(
    ("batch_size", "world", "words"),
    [
        pytest.param(11, 1, "only 10 slices to train on", id="large"),
        pytest.param(5, 2, "2 processes share a batch", id="odd"),
    ],
)
def test_batches_that_cannot_be_made(
    slices: LabelledSlices, batch_size: int, world: int, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        batches(slices, batch_size, ranks=Ranks(0, world))
