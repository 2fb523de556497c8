import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from support.labelled_folder import make_labelled_folder

from clinreadnet.errors import InputError
from clinreadnet.metrics import correlations
from clinreadnet.model.checkpoint import load_checkpoint
from clinreadnet.model.network import PRESETS
from clinreadnet.training import ablate as module
from clinreadnet.training.ablate import VARIANTS, ablate
from clinreadnet.training.ablation_intervals import difference, mean_over_seeds
from clinreadnet.training.ablation_table import METRICS, markdown
from clinreadnet.training.config import TrainConfig
from clinreadnet.training.loss import LOSSES, fine_distribution

CONFIG = TrainConfig(preset="tiny", epochs=1, batch_size=4, crop=256, validation_share=0.34)
SMALL = replace(PRESETS["tiny"], embed_dim=16, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled_folder(tmp_path_factory.mktemp("data") / "slices")


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", SMALL)


SUMMARY = {
    "steps": 100,
    "training_slices": 8,
    "validation_slices": 4,
    "training_anatomies": 2,
    "training_minutes": 2.5,
    "device": "abacus",
    "processes": 1,
    "threads": 2,
    "torch": "2",
    "clinreadnet": "0",
}


def test_an_ablation_goes_on_where_it_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, trained = tmp_path / "out", []
    other_folder = make_labelled_folder(tmp_path / "others", seed=2, anatomies=1)
    rng = np.random.default_rng(0)

    def train(data: object, run: Path, config: TrainConfig, *, resume: bool) -> Path:
        trained.append((run.name, config, resume))
        run.mkdir(exist_ok=True)
        if len(trained) == 3:
            (run / "last.pt").touch()
            raise KeyboardInterrupt
        best = dict.fromkeys(METRICS, rng.random())
        (run / "summary.json").write_text(json.dumps(SUMMARY | {"kept": best}))
        return run / "model.safetensors"

    monkeypatch.setattr(module, "train", train)
    with pytest.raises(KeyboardInterrupt):
        ablate([folder], out, CONFIG, seeds=2)
    assert not (out / "ablation.json").exists()
    result = ablate([folder], out, CONFIG, seeds=2)
    assert json.loads((out / "ablation.json").read_text()) == result

    names = [f"{name.replace(' ', '-')}-{seed}" for seed in (0, 1) for name in VARIANTS]
    assert [name for name, _, _ in trained] == [*names[:3], *names[2:]], "none is repeated"
    assert [resume for _, _, resume in trained] == [False] * 3 + [True] + [False] * 13
    for name, config, _ in trained:
        changes = VARIANTS[name[:-2].replace("-", " ").replace("cross ", "cross-")]
        assert config == replace(CONFIG, seed=int(name[-1]), **changes)

    full, other = (result["variants"][name] for name in ("full", "cross-entropy"))
    assert full["differences"]["sum"]["mean"] == 0 and len(full["seeds"]["srocc"]) == 2
    lost = np.subtract(other["seeds"]["sum"], full["seeds"]["sum"])
    assert other["differences"]["sum"]["mean"] == pytest.approx(np.mean(lost))
    text = (out / "ablation.md").read_text()
    assert text == markdown(result) and text.count("\n| ") == 9
    assert "preset `tiny`, crops of 256, batches of 4, 8 slices of 2 anatomies, 100 steps" in text
    assert "abacus" in text
    for changed, named in (
        (dict(config=replace(CONFIG, epochs=2)), r"\(config epochs: 1 there, 2 here\)"),
        (dict(seeds=3), r"\(seeds: 2 there, 3 here\)"),
        (dict(data=[other_folder]), r'\(data 1 name: "slices" there, "others" here; data 1 sha256'),
        (dict(test=other_folder), r"\(test: null there, "),
    ):
        with pytest.raises(InputError, match=f"ablation with other settings {named}"):
            ablate(**{"data": [folder], "out": out, "config": CONFIG, "seeds": 2} | changed)
    monkeypatch.setattr(module, "__version__", "9.9")
    with pytest.raises(InputError, match=r'\(version: "0.1.0" there, "9.9" here\)'):
        ablate([folder], out, CONFIG, seeds=2)


def test_a_report_compares_what_is_finished(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, trained = tmp_path / "out", []
    sums = {"full": (2.0, 2.4), "no-Sobel": (1.9, 2.2), "one-temperature": (1.5, 1.6)}

    def train(data: object, run: Path, config: TrainConfig, *, resume: bool) -> Path:
        trained.append(run.name)
        run.mkdir(exist_ok=True)
        kept = {**dict.fromkeys(METRICS, 0.5), "sum": sums[run.name[:-2]][config.seed]}
        (run / "summary.json").write_text(json.dumps(SUMMARY | {"kept": kept}))
        return run / "model.safetensors"

    three = {name: VARIANTS[name] for name in ("full", "no Sobel", "one temperature")}
    monkeypatch.setattr(module, "VARIANTS", three)
    monkeypatch.setattr(module, "train", train)
    with pytest.raises(InputError, match="holds no ablation to report"):
        ablate([folder], out, CONFIG, seeds=2, report=True)
    assert not out.exists()
    whole = ablate([folder], out, CONFIG, seeds=2)
    assert ablate([folder], out, CONFIG, seeds=2, report=True) == whole
    for name in ("no-Sobel-1", "one-temperature-0", "one-temperature-1"):
        (out / name / "result.json").unlink()
    trained.clear()
    part = ablate([folder], out, CONFIG, seeds=2, report=True)
    assert not trained
    assert part["unfinished"] == {"no Sobel": 1, "one temperature": 2}
    assert part["variants"]["full"] == whole["variants"]["full"]
    gap = part["variants"]["no Sobel"]["differences"]["sum"]
    assert gap == {"mean": pytest.approx(-0.1), "low": None, "high": None}
    text = (out / "ablation.md").read_text()
    assert (
        "| no Sobel, 1 of 2 seeds | 0.5000 | 0.5000 | 0.5000 | 1.9000 | 0.5000 | -0.1000 |" in text
    )
    assert "One seed has no interval. Not finished: one temperature." in text
    (out / "full-0" / "result.json").unlink()
    part = ablate([folder], out, CONFIG, seeds=2, report=True)
    assert part["variants"]["no Sobel"]["differences"]["sum"] is None, "no seed has both"
    for path in out.glob("*/result.json"):
        path.unlink()
    with pytest.raises(InputError, match="no network is finished"):
        ablate([folder], out, CONFIG, seeds=2, report=True)
    assert ablate([folder], out, CONFIG, seeds=2) == whole


@pytest.mark.whole
def test_an_ablation_of_real_runs_is_measured_on_a_test_folder(
    folder: Path, tmp_path: Path
) -> None:
    out, test = tmp_path / "out", make_labelled_folder(tmp_path / "test", seed=1, anatomies=1)
    result = ablate([folder], out, CONFIG, seeds=1, test=test)
    assert result["scale"]["measured_slices"] == 4
    assert result["variants"]["full"]["sum"]["low"] is None, "one seed has no interval"
    assert "measured on 4 test slices; seeds: 1" in markdown(result)
    expected = {
        "full": SMALL,
        "no-Sobel": replace(SMALL, use_sobel=False),
        "one-temperature": replace(SMALL, octaves=1),
        "cross-entropy": SMALL,
        "fine-grades-alone": SMALL,
        "coarse-grades-alone": SMALL,
        "no-attention": replace(SMALL, use_attention=False),
        "no-tile-labels": SMALL,
    }
    for name, config in expected.items():
        assert load_checkpoint(out / f"{name}-0" / "model.safetensors").config == config


def test_patients_copies_are_ordered_by_every_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order itself is tested with `evaluate_order`."""
    order = {
        "anatomies": {"1.dcm": 0.9, "2.dcm": 0.7},
        "denoised": 8,
        "denoised_above_clean": ["7.tif"],
    }
    monkeypatch.setattr(module, "VARIANTS", {"full": {}, "no tile labels": {"tile_weight": 0.0}})
    measured = []

    def evaluate_order(patients: Path, checkpoint: Path, clean: Sequence[Path]) -> dict[str, Any]:
        assert load_checkpoint(checkpoint).config == SMALL
        measured.append((patients, clean))
        return order

    monkeypatch.setattr(module, "evaluate_order", evaluate_order)
    out = tmp_path / "out"
    assert "patients" not in ablate([folder], out, CONFIG, seeds=1)["variants"]["full"]
    (copies := tmp_path / "copies").mkdir()
    (copies / "1.tif").write_bytes(b"1")
    for patients, clean, calls in ((folder, [], 2), (folder, [], 2), (copies, [folder], 4)):
        result = ablate([folder], out, CONFIG, seeds=1, patients=patients, clean=clean, report=True)
        assert len(measured) == calls, "each network is measured once on the same copies"
    assert measured[-1] == (copies, [folder])
    assert "| denoised copies above the clean slice, by seed |" in markdown(result)
    for variant in result["variants"].values():
        assert variant["patients"]["mean_srocc"]["mean"] == pytest.approx(0.8)
        assert variant["patients"]["lowest_srocc"] == 0.7
    assert markdown(result).count("| 0.8000 | 1 of 8 |") == 2


def test_a_difference_is_bootstrapped_in_pairs() -> None:
    """The interval of a constant gap is narrow for all seeds and slices."""
    rng = np.random.default_rng(0)
    label = rng.uniform(0, 4, 60)

    def run(noise: float, seed: int) -> dict[str, Any]:
        shift = np.random.default_rng(seed).normal(0, 1, 60)  # the same in both networks
        score, maps = label + noise * shift, 0.9 - noise / 10 + 0.05 * shift
        slices = {"label": label.tolist(), "score": score.tolist(), "map_correlation": [*maps]}
        slices["map_correlation"][3] = None
        total = correlations(score, label)["sum"]["value"]
        middle = float(np.nanmedian(np.delete(maps, 3)))
        return {"slices": slices, "measured": {"sum": total, "map_correlation": middle}}

    full, worse = ([run(noise, seed) for seed in range(4)] for noise in (0.5, 0.8))
    for metric, expected in (("map_correlation", -0.03), ("sum", None)):
        gap = difference(metric, worse, full)
        assert gap["low"] is not None and gap["high"] is not None
        assert gap["low"] < gap["mean"] < gap["high"] < 0 or metric == "map_correlation"
        if expected is not None:
            assert [gap["low"], gap["mean"], gap["high"]] == pytest.approx([expected] * 3, abs=1e-9)
    assert difference("sum", full, full) == {"mean": 0, "low": 0, "high": 0}
    widths = []
    for others in (full, full[::-1]):  # in pairs, and not
        gap = difference("sum", worse, others)
        assert gap["low"] is not None and gap["high"] is not None
        widths.append(gap["high"] - gap["low"])
    assert widths[1] > 1.2 * widths[0]
    for entry in full:
        del entry["slices"]
    values = [a["measured"]["sum"] - b["measured"]["sum"] for a, b in zip(worse, full, strict=True)]
    assert difference("sum", worse, full) == mean_over_seeds(values)


def test_a_difference_of_few_seeds_is_as_wide_as_students() -> None:
    """Resampling three seeds would give half the width."""
    rng = np.random.default_rng(0)
    label = rng.uniform(0, 4, 40).tolist()

    def run(correlation: float) -> dict[str, Any]:
        slices = {"label": label, "score": label, "map_correlation": [correlation] * 40}
        return {"slices": slices, "measured": {"map_correlation": correlation}}

    gaps = [0.01, 0.02, 0.06]
    gap = difference("map_correlation", [run(0.9 + g) for g in gaps], [run(0.9)] * 3)
    expected = mean_over_seeds(gaps)
    assert list(gap.values()) == pytest.approx(list(expected.values()))


def test_what_a_killed_writer_left_beside_a_result_is_removed(tmp_path: Path) -> None:
    """It was killed after it wrote the result and before it removed its temporary folder."""
    code = "import os, sys; from clinreadnet.files import whole_file\n"
    code += "with whole_file(sys.argv[1]): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "result.json"])
    (tmp_path / "result.json").write_text("{}")
    assert len(list(tmp_path.iterdir())) == 2
    assert module.read_result(tmp_path) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_another_folder_is_not_written_into(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="holds something else"):
        ablate([folder], tmp_path, CONFIG)


@pytest.mark.parametrize("missing", ["data", "test", "patients", "clean"])
@pytest.mark.parametrize("report", [False, True])
def test_a_missing_folder_leaves_nothing(
    missing: str, report: bool, folder: Path, tmp_path: Path
) -> None:
    nowhere = tmp_path / "nowhere"
    given = {"data": [folder], "test": folder, "patients": folder, "clean": [folder]}
    given[missing] = [nowhere] if isinstance(given[missing], list) else nowhere
    with pytest.raises(InputError, match=f"{nowhere}: no such"):
        ablate(given.pop("data"), tmp_path / "out", CONFIG, report=report, **given)
    assert not (tmp_path / "out").exists()


def test_intervals_are_students() -> None:
    values = [2.1, 2.4, 2.2]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    interval = mean_over_seeds(values)
    assert interval["mean"] == pytest.approx(np.mean(values))
    assert [interval["low"], interval["high"]] == pytest.approx([low, high], 1e-4)


def test_cross_entropy_is_that_of_the_two_neighbouring_grades() -> None:
    probs = torch.full((2, 21), 0.5 / 19)
    probs[0, 5], probs[0, 6] = 0.2, 0.3
    probs[1, 0] = 0.5 + 0.5 / 19
    score = torch.tensor([1.05, 0.0])
    expected = -(0.75 * np.log(0.2) + 0.25 * np.log(0.3)), -np.log(0.5 + 0.5 / 19)
    assert LOSSES["cross-entropy"](probs, score).tolist() == pytest.approx(expected, 1e-5)
    zero = fine_distribution(torch.tensor([4.0])).flip(1).requires_grad_()
    LOSSES["cross-entropy"](zero, torch.tensor([4.0])).sum().backward()
    assert zero.grad is not None and zero.grad.isfinite().all()


def test_hrps_is_the_mean_of_its_two_levels() -> None:
    probs = torch.rand(5, 21).softmax(dim=1)
    score = torch.tensor([0.0, 1.1, 2.4, 3.3, 4.0])
    fine, coarse = (LOSSES[name](probs, score) for name in ("rps-fine", "rps-coarse"))
    torch.testing.assert_close(LOSSES["hrps"](probs, score), (fine + coarse) / 2)
    assert not torch.allclose(fine, coarse)


def test_clean_slices_without_their_copies_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`clean` needs `patients`"):
        ablate([folder], tmp_path / "out", CONFIG, clean=[folder], report=True)
    assert not (tmp_path / "out").exists()
