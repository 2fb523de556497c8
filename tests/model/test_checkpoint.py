from pathlib import Path

import pytest
import torch

from clinreadnet.errors import InputError
from clinreadnet.model.checkpoint import load_checkpoint, load_pretrained, save_checkpoint
from clinreadnet.model.network import PRESETS, ClinReadNet


def test_save_and_load_give_identical_outputs(tmp_path: Path) -> None:
    model = ClinReadNet(PRESETS["tiny"]).half().float().eval()  # values that float16 holds
    save_checkpoint(model, tmp_path / "m.safetensors", dtype=torch.float16)
    loaded = load_checkpoint(tmp_path / "m.safetensors", preset="tiny")
    hu = torch.randn(1, 1, 256, 256) * 300
    with torch.inference_mode():
        for a, b in zip(model(hu), loaded(hu), strict=True):
            assert torch.equal(a, b)


def test_another_preset_is_refused(tmp_path: Path) -> None:
    save_checkpoint(ClinReadNet(PRESETS["tiny"]), tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="preset 'tiny', not 'small'"):
        load_checkpoint(tmp_path / "m.safetensors", preset="small")


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(InputError, match="no such checkpoint"):
        load_checkpoint(path)
    path.write_text("not a checkpoint")
    with pytest.raises(InputError, match="is a folder; give its model.safetensors"):
        load_checkpoint(tmp_path)
    with pytest.raises(InputError, match="not a readable safetensors file .*; give the model"):
        load_checkpoint(path)


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = ClinReadNet(PRESETS["tiny"])
    del model.head.token_weight
    save_checkpoint(model, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="do not fit preset 'tiny'"):
        load_checkpoint(tmp_path / "m.safetensors")


def test_the_shipped_checkpoint_loads_and_is_small() -> None:
    from clinreadnet.model.checkpoint import pretrained_path

    assert pretrained_path().stat().st_size <= 16 * 2**20
    model = load_pretrained()
    assert model.config == PRESETS["small"]
    assert not model.training and model.dtype == torch.float32


def test_a_preset_that_is_not_shipped() -> None:
    with pytest.raises(InputError, match="shipped: small"):
        load_pretrained("base")
