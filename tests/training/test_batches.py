import numpy as np
import pytest
import torch

from clinreadnet.errors import InputError
from clinreadnet.training.batches import Batches
from clinreadnet.training.dataset import LabelledSlices
from clinreadnet.training.distributed import Ranks


@pytest.fixture(scope="module")
def slices() -> LabelledSlices:
    rng = np.random.default_rng(0)
    hu = rng.integers(-1000, 400, (10, 512, 512)).astype(np.int16)
    scores = np.arange(10, dtype=np.float32)
    return LabelledSlices(hu, np.arange(10), scores, scores, np.arange(10))


def batches(slices: LabelledSlices, batch_size: int = 4, seed: int = 0, ranks: Ranks | None = None):
    return Batches(slices, batch_size, 256, seed, ranks or Ranks())


def test_an_epoch_shows_each_slice_once_and_epochs_differ(slices: LabelledSlices) -> None:
    two = batches(slices, 5)
    first, second = (
        [s for _, scores in two.after(step) for s in scores.tolist()] for step in (0, 2)
    )
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_a_ragged_rest_is_left_to_the_next_epoch(slices: LabelledSlices) -> None:
    assert batches(slices).per_epoch == 2
    assert [len(scores) for _, scores in batches(slices).after(0)] == [4, 4]


def test_the_seed_decides_and_a_later_start_sees_the_same(slices: LabelledSlices) -> None:
    whole, again = list(batches(slices, 2).after(5)), list(batches(slices, 2).after(7))
    for (hu, scores), (hu_again, scores_again) in zip(whole[2:], again, strict=True):
        assert torch.equal(hu, hu_again) and torch.equal(scores, scores_again)
    (other, _), *_ = batches(slices, 2, seed=1).after(5)
    assert not torch.equal(whole[0][0], other)


def test_ranks_share_the_batch_of_one(slices: LabelledSlices) -> None:
    (hu, scores), *_ = batches(slices).after(0)
    parts = [next(batches(slices, ranks=Ranks(rank, 2)).after(0)) for rank in (0, 1)]
    assert torch.equal(torch.cat([hu for hu, _ in parts]), hu)
    assert torch.equal(torch.cat([scores for _, scores in parts]), scores)


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
