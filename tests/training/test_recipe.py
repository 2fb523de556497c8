"""Recipes: stages from a TOML file, each from the checkpoint before it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.labelled_folder import make_labelled_folder

from clinreadnet.errors import InputError
from clinreadnet.model.checkpoint import pretrained_path
from clinreadnet.model.network import PRESETS
from clinreadnet.training import run as module
from clinreadnet.training.recipe import load_recipe, shipped_recipes
from clinreadnet.training.run import train_recipe
from clinreadnet.training.trainer import Trainer

SMALL = replace(PRESETS["tiny"], embed_dim=16, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8))
TWO = """
[[stage]]
name = "network"
preset = "tiny"
epochs = 1
batch_size = 4
validation_share = 0.34

[[stage]]
name = "head"
task = "head"
preset = "tiny"
epochs = 2
batch_size = 4
most_slices = 6
validation_share = 0.34
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_whole(name: str) -> None:
    stages = load_recipe(name)
    assert stages[0].config.task == "network" and stages[-1].config.keep == "last"


def test_a_recipe_is_read(tmp_path: Path) -> None:
    first, second = load_recipe(write(tmp_path, TWO + 'limit = "90s"\ntile_weight = 2\n'))
    assert (first.name, first.config.epochs) == ("network", 1)
    assert second.config.limit_seconds == 90 and second.config.tile_weight == 2.0


def test_the_wide_recipe_starts_from_the_shipped_weights() -> None:
    network, head = load_recipe("wide")
    assert network.config.init == str(pretrained_path()) and head.config.init is None
    assert network.config.learning_rate < load_recipe("small")[0].config.learning_rate / 3
    assert (network.config.tile_weight, network.config.target) == (3.0, "quality")


def test_stages_follow_each_other_and_are_kept_at_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", SMALL)
    folder = make_labelled_folder(tmp_path / "slices", tiles=True)
    stages = load_recipe(write(tmp_path, TWO))
    out = tmp_path / "run"
    path = train_recipe([folder], out, stages)
    assert path.read_bytes() == (out / "head" / "model.safetensors").read_bytes()
    summary = json.loads((out / "head" / "summary.json").read_text())
    assert summary["config"]["init"] == "model.safetensors"
    assert summary["training_slices"] == 6
    with pytest.raises(InputError, match="already exists"):
        train_recipe([folder], out, stages)
    monkeypatch.setattr(module, "train", lambda *args, **options: pytest.fail("trained again"))
    assert train_recipe([folder], out, stages, resume=True) == path


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_an_interrupt_before_the_first_step_leaves_only_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    def interrupted(trainer: Trainer, stopping: object) -> None:
        (trainer.out / "tensorboard").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setitem(PRESETS, "tiny", SMALL)
    monkeypatch.setattr(Trainer, "run", interrupted)
    folder = make_labelled_folder(tmp_path / "slices", tiles=True)
    out = tmp_path / "runs" / "small"
    if existing:
        out.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        train_recipe([folder], out, load_recipe(write(tmp_path, TWO)))
    assert out.exists() == (tmp_path / "runs").exists() == existing
    assert not existing or list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[[stage]]\nepoch = 3\n", "unknown field 'epoch'; known: name", id="field"),
        pytest.param("[[stage]]\ninit = 'x'\n", "init is 'x'; leave it out", id="init"),
        pytest.param("[[stage]]\ninit = 3\n", "init is 3; leave it out", id="init-number"),
        pytest.param(
            "[[stage]]\nname = 'a'\n[[stage]]\nname = 'b'\ninit = 'shipped'\n",
            "stage b: init is 'shipped'",
            id="init-later",
        ),
        pytest.param("[[stage]]\nepochs = 'ten'\n", "expected int", id="type"),
        pytest.param("[[stage]]\nmost_slices = 'all'\n", "expected int", id="optional"),
        pytest.param("[[stage]]\nbf16 = 'yes'\n", "expected bool", id="optional-bool"),
        pytest.param("[[stage]]\nepochs = 0\n", "must be 1 or more", id="range"),
        pytest.param("[[stage]]\nlimit = '3 hours'\n", "not a duration", id="limit"),
        pytest.param("[[stage]]\ntask = 'head'\n", "head needs `init`", id="head-first"),
        pytest.param("epochs = 3\n", r"holds \[\[stage\]\] tables", id="no-stage"),
        pytest.param("stage = [1]\n", r"holds \[\[stage\]\] tables", id="no-table"),
        pytest.param("[[stage]\n", "not a TOML file", id="toml"),
        pytest.param("a = " + "[" * 30_000, "not a TOML file", id="deep"),
        pytest.param("a = " + "1" * 5000, "not a TOML file", id="digits"),
        pytest.param("[[stage]]\nname = '../other'\n", "not that of a folder", id="outside"),
        pytest.param("[[stage]]\nname = '..'\n", "not that of a folder", id="parent"),
        pytest.param("[[stage]]\nname = 3\n", "not that of a folder", id="number"),
        pytest.param(
            "[[stage]]\nname = 'a'\n[[stage]]\nname = 'a'\n", "two stages of one name", id="twice"
        ),
    ],
)
def test_bad_recipes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(write(tmp_path, text))


def test_a_recipe_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"[[stage]]\nname = '\xff'\n")
    with pytest.raises(InputError, match="not a TOML file"):
        load_recipe(path)


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(InputError, match="no such recipe; .* small"):
        load_recipe("large")
