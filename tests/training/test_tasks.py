"""Training what the head makes of the statistics of edges, on a frozen stem."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.labelled_folder import make_labelled_folder

from clinreadnet.errors import InputError
from clinreadnet.model.checkpoint import load_checkpoint, save_checkpoint
from clinreadnet.model.network import PRESETS, ClinReadNet
from clinreadnet.model.predict import predict
from clinreadnet.training.config import TrainConfig
from clinreadnet.training.dataset import load_slices
from clinreadnet.training.run import train
from clinreadnet.training.tasks import StatisticsTrainer, TokenBatches, draw_span

TINY = TrainConfig(
    preset="tiny", epochs=30, batch_size=4, validation_share=0.34, statistics_only=True
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled_folder(tmp_path_factory.mktemp("data") / "slices")


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("init") / "init.safetensors"
    save_checkpoint(ClinReadNet(PRESETS["tiny"]), path)
    return path


@pytest.fixture(scope="module")
def trained(folder: Path, init: Path, tmp_path_factory: pytest.TempPathFactory) -> ClinReadNet:
    run = tmp_path_factory.mktemp("run") / "run"
    return load_checkpoint(train([folder], run, replace(TINY, init=str(init))))


def test_the_statistics_learn_and_the_rest_stays(init: Path, trained: ClinReadNet) -> None:
    before = load_checkpoint(init).state_dict()
    for name, tensor in trained.state_dict().items():
        if name.startswith(("stem.", "stages.")):
            torch.testing.assert_close(tensor, before[name].half().float(), msg=name)
    assert trained.head.vote.weight.abs().max() == 0
    assert not torch.equal(trained.head.prior[0].weight, before["head.prior.0.weight"])


def test_they_rank_slices_by_their_noise(folder: Path, trained: ClinReadNet) -> None:
    slices = load_slices([folder])
    scores = predict(trained, slices.images(np.arange(12))).reshape(3, 4)
    assert (np.diff(scores, axis=1) < 0).all(), "the label falls with the noise"


def test_validation_is_that_of_the_whole_network(folder: Path, init: Path, tmp_path: Path) -> None:
    trainer = StatisticsTrainer(replace(TINY, init=str(init)), load_slices([folder]), tmp_path)
    whole = predict(trainer.ema, trainer.validation.images(np.arange(4)))
    # The tokens are kept as float16.
    np.testing.assert_allclose(trainer._predict(range(4)), whole, atol=2e-3)
    assert np.ptp(whole) > 0


def batches(side: int = 8, done: float = 0.0) -> TokenBatches:
    tokens = torch.arange(6, dtype=torch.float16).repeat_interleave(side * side)
    scores = np.arange(6, dtype=np.float32)
    shaped = tokens.reshape(6, side, side, 1)
    return TokenBatches(shaped, scores, 2, 3, 3, torch.device("cpu"), lambda: done)


def test_a_pass_goes_on_from_any_step() -> None:
    whole, rest = list(batches().after(3)), list(batches().after(4))
    for (tokens, scores), (again, scores_again) in zip(whole[1:], rest, strict=True):
        assert torch.equal(tokens, again) and torch.equal(scores, scores_again)


def test_a_pass_sees_every_slice_once() -> None:
    seen = list(batches().after(0))
    assert sorted(s for _, scores in seen for s in scores.tolist()) == list(range(6))
    for tokens, scores in seen:
        assert tokens.dtype == torch.float32
        assert (tokens == scores[:, None, None, None]).all(), "of the slice of that score"


def test_spans_are_of_all_lengths_and_places() -> None:
    rng = np.random.default_rng(0)
    spans = [draw_span(rng, 64, 3 / 16) for _ in range(4000)]
    assert {span.stop - span.start for span in spans} == set(range(12, 65))
    assert all(0 <= span.start and span.stop <= 64 for span in spans)
    assert {span.start for span in spans} >= set(range(40))
    assert all((span.step == 1) == (span.stop - span.start <= 32) for span in spans)


def test_windows_grow_towards_the_end() -> None:
    def shortest(done: float) -> int:
        seen = [batches(side=64, done=done).after(3 * epoch) for epoch in range(40)]
        return min(min(tokens.shape[1:3]) for epoch in seen for tokens, _ in epoch)

    assert shortest(0.5) <= 16
    assert shortest(1.0) == 18, "36 of 64, every second"


def test_an_initial_checkpoint_is_needed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`statistics_only` needs `init`"):
        train([folder], tmp_path / "run", TINY)
    assert not (tmp_path / "run").exists()


def test_a_batch_must_fit(folder: Path, init: Path, tmp_path: Path) -> None:
    config = replace(TINY, init=str(init), batch_size=9)
    with pytest.raises(InputError, match="batch_size=9: only 8 slices"):
        train([folder], tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
