"""Training on a small LDCTIQA folder whose labels follow from the noise."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from clinreadnet import train as training
from clinreadnet.errors import InputError
from clinreadnet.evaluate import evaluate
from clinreadnet.train import TrainConfig, Trainer, augment, load_slices, split_by_anatomy, train
from clinreadnet.weights import load_checkpoint

TINY = TrainConfig(preset="tiny", epochs=2, batch_size=4, crop=256, validation_share=0.34)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three anatomies, four noise levels each; the label falls with the noise."""
    root = tmp_path_factory.mktemp("ldctiqa")
    (root / "image").mkdir()
    rng = np.random.default_rng(0)
    scores, images = {}, {}
    for i in range(12):
        noise = 0.02 * (1 + i % 4)
        image = np.clip(0.7 + noise * rng.standard_normal((512, 512)), 0, 1).astype(np.float32)
        tifffile.imwrite(root / "image" / f"{i:04}.tif", image)
        scores[f"{i:04}.tif"] = 4.0 - i % 4
        images[f"{i:04}.tif"] = {"anatomy": i // 4}
    (root / "train.json").write_text(json.dumps(scores))
    (root / "simulation.json").write_text(json.dumps({"images": images}))
    return root


def test_no_anatomy_is_on_both_sides(folder: Path) -> None:
    slices = load_slices([folder])
    seen, held_out = split_by_anatomy(slices, 0.34, seed=0)
    assert len(seen) == 8 and len(held_out) == 4
    assert not set(seen.groups) & set(held_out.groups)


def test_folders_keep_their_anatomies_apart(folder: Path) -> None:
    assert len(set(load_slices([folder, folder]).groups)) == 6


def test_data_without_anatomies_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "image").symlink_to(folder / "image")
    (tmp_path / "train.json").write_bytes((folder / "train.json").read_bytes())
    with pytest.raises(InputError, match="no simulation.json"):
        load_slices([tmp_path])


def test_augmentation_keeps_every_pixel_value_and_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    hu = torch.arange(512 * 512, dtype=torch.int32).reshape(1, 512, 512)
    seen = set()
    for _ in range(50):
        (crop,) = augment(hu, 256, generator)
        seen.add((int(crop[0, 0, 1] - crop[0, 0, 0]), int(crop[0, 1, 0] - crop[0, 0, 0])))
        assert crop.shape == (1, 256, 256)
        assert crop.max() - crop.min() == 255 * 512 + 255
    assert seen == {(1, 512), (-1, 512), (1, -512), (-1, -512)}


def test_a_run_lowers_the_loss_and_leaves_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        preset="tiny", epochs=10, batch_size=4, crop=256, validation_share=0.34, learning_rate=5e-4
    )
    path = train([folder], tmp_path / "run", config)
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    assert [row["epoch"] for row in rows] == [str(i) for i in range(1, 11)]
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert float(rows[-1]["learning_rate"]) < 0.1 * 5e-4
    assert load_checkpoint(path).config.preset == "tiny"
    result = evaluate(folder, path)
    assert result["slices"] == 12 and result["srocc"]["value"] > 0.5
    assert result["srocc"]["low"] <= result["srocc"]["value"] <= result["srocc"]["high"]


def test_a_resumed_run_equals_an_uninterrupted_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_checkpoint(train([folder], tmp_path / "whole", TINY))

    saved = Trainer.save

    def save_then_die(self: Trainer) -> None:
        saved(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "save", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            train([folder], tmp_path / "cut", TINY)
    resumed = load_checkpoint(train([folder], tmp_path / "cut", TINY, resume=True))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_resume_refuses_other_settings(folder: Path, tmp_path: Path) -> None:
    train([folder], tmp_path / "run", TINY)
    other = TrainConfig(**{**TINY.__dict__, "seed": 1})
    with pytest.raises(InputError, match="started with another seed"):
        train([folder], tmp_path / "run", other, resume=True)


def test_a_time_limit_ends_the_schedule(folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        preset="tiny",
        epochs=1000,
        batch_size=4,
        crop=256,
        validation_share=0.34,
        limit_minutes=0.05,
    )
    train([folder], tmp_path / "run", config)
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    assert float(rows[-1]["learning_rate"]) < 1e-3 and int(rows[-1]["epoch"]) < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"crop": 300}, "256 or 512", id="crop"),
        pytest.param({"preset": "huge"}, "known: tiny, small, base", id="preset"),
        pytest.param({"init": "missing.safetensors"}, "no such checkpoint", id="init"),
    ],
)
def test_bad_settings_leave_no_run_folder(
    folder: Path, tmp_path: Path, change: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train([folder], tmp_path / "run", TrainConfig(**{**TINY.__dict__, **change}))
    assert not (tmp_path / "run").exists()


def test_an_existing_run_folder_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already exists"):
        train([folder], tmp_path, TINY)
