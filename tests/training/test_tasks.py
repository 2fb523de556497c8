"""Training the head on tokens that are computed once."""

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
from clinreadnet.training.tasks import TokenBatches
from clinreadnet.training.trainer import Trainer

TINY = TrainConfig(preset="tiny", task="head", epochs=10, batch_size=4, validation_share=0.34)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled_folder(tmp_path_factory.mktemp("data") / "slices", tiles=True)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("init") / "init.safetensors"
    save_checkpoint(ClinReadNet(PRESETS["tiny"]), path)
    return path


def test_the_head_learns_and_the_rest_stays(folder: Path, init: Path, tmp_path: Path) -> None:
    config = replace(TINY, init=str(init))
    trained = load_checkpoint(train([folder], tmp_path / "run", config))
    before = load_checkpoint(init).state_dict()
    for name, tensor in trained.state_dict().items():
        if name.startswith(("stem.", "stages.", "statistics.")):
            torch.testing.assert_close(tensor, before[name].half().float(), msg=name)
    assert not torch.equal(trained.head.vote.weight, before["head.vote.weight"].half().float())
    slices = load_slices([folder])
    scores = predict(trained, slices.images(np.arange(12)))["score"].reshape(3, 4)
    assert (np.diff(scores, axis=1) < 0).all(), "the label falls with the noise"


def test_validation_is_that_of_the_whole_network(folder: Path, init: Path, tmp_path: Path) -> None:
    trainer = Trainer(replace(TINY, init=str(init)), load_slices([folder]), tmp_path)
    whole = predict(trainer.ema, trainer.validation.images(np.arange(4)))
    outputs = trainer.task.predict(trainer.ema, [0, 1, 2, 3])
    for name, values in outputs.items():  # the tokens are kept as float16
        np.testing.assert_allclose(values, whole[name], atol=2e-3)
    assert np.ptp(whole["score"]) > 0
    some = trainer.task.predict(trainer.ema, [3, 1])["score"]
    np.testing.assert_allclose(some, whole["score"][[3, 1]], atol=2e-3)


def batches(folder: Path) -> TokenBatches:
    slices = load_slices([folder], quiet=True)
    tokens = torch.arange(12, dtype=torch.float16)[:, None, None, None].expand(12, 16, 16, 2)
    return TokenBatches(tokens, slices, np.arange(12), 4, 3, 3, torch.device("cpu"))


def test_a_pass_goes_on_from_any_step(folder: Path) -> None:
    source = batches(folder)
    whole, rest = list(source.after(3)), list(source.after(4))
    assert len(whole) == 3
    for batch, again in zip(whole[1:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))


def test_a_pass_sees_every_slice_once_with_its_own_labels(folder: Path) -> None:
    source = batches(folder)
    seen = []
    for batch in source.after(0):
        assert batch.inputs.dtype == torch.float32
        index = batch.inputs[:, 0, 0, 0].long()
        seen += index.tolist()
        assert torch.equal(batch.scores, 4.0 - index % 4)
        assert torch.equal(batch.tiles[:, 5, 12], 3.0 - index % 4)
    assert sorted(seen) == list(range(12))


def test_a_batch_must_fit(folder: Path, init: Path, tmp_path: Path) -> None:
    config = replace(TINY, init=str(init), batch_size=9)
    with pytest.raises(InputError, match="batch_size=9: only 8 slices"):
        train([folder], tmp_path / "run", config)
