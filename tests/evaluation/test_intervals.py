import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.labelled_folder import make_labelled_folder

from clinreadnet.errors import InputError
from clinreadnet.evaluation.intervals import calibrate_intervals, fit_temperature, tempered
from clinreadnet.evaluation.labels import evaluate
from clinreadnet.grades import covered

GRADES = np.arange(21) / 5


def normal(centre: NDArray[np.float64], spread: float) -> NDArray[np.float64]:
    """Return distributions [n, 21] around centres [n]."""
    probs = np.exp(-(((GRADES - centre[:, None]) / spread) ** 2) / 2)
    return np.asarray(probs / probs.sum(axis=1, keepdims=True))


def share_covered(
    probs: NDArray[np.float64], labels: NDArray[np.float64], temperature: float
) -> NDArray[np.bool_]:
    return covered(tempered(np.log(np.maximum(probs, 1e-30)), temperature), labels)


def test_narrow_distributions_are_widened_until_nine_in_ten_labels_are_inside() -> None:
    rng = np.random.default_rng(0)
    centre = rng.uniform(1, 3, 2000)
    labels = np.round((centre + rng.normal(0, 0.5, 2000)).clip(0, 4) * 5) / 5
    probs = normal(centre, 0.2)
    temperature = fit_temperature(probs, labels, np.arange(2000))
    assert temperature > 2
    assert share_covered(probs, labels, 1.0).mean() < 0.7
    assert 0.90 <= share_covered(probs, labels, temperature).mean() < 0.93


def test_a_patient_of_many_slices_counts_as_one_anatomy() -> None:
    rng = np.random.default_rng(1)
    centre = rng.uniform(1, 3, 2000)
    spread = np.where(np.arange(2000) < 1000, 0.2, 0.9)
    labels = np.round((centre + spread * rng.normal(0, 1, 2000)).clip(0, 4) * 5) / 5
    probs = normal(centre, 0.2)
    groups = np.where(np.arange(2000) < 1000, np.arange(2000), 1000)
    temperature = fit_temperature(probs, labels, groups)
    assert 0.89 < share_covered(probs, labels, temperature)[:1000].mean() < 0.93
    assert share_covered(probs, labels, temperature).mean() < 0.8


def test_a_calibrated_checkpoint_covers_and_judges_as_before(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = make_labelled_folder(tmp_path / "d", anatomies=2)
    labels = json.loads((folder / "train.json").read_text())
    changed = {name: 1 + k % 5 / 2 for k, name in enumerate(labels)}
    (folder / "train.json").write_text(json.dumps(changed))
    out = tmp_path / "out.safetensors"
    calibration = calibrate_intervals(folder, out, tiny_checkpoint)
    assert calibration["slices"] == 8 and 0.9 <= calibration["after"] <= 1
    before, after = evaluate(folder, tiny_checkpoint), evaluate(folder, out)
    assert before["coverage"] == calibration["before"]
    assert after["coverage"] == pytest.approx(calibration["after"], abs=0.13)  # float16, one slice
    assert after["map"] == before["map"]
    again = calibrate_intervals(folder, tmp_path / "again.safetensors", out)
    assert again["temperature"] == pytest.approx(calibration["temperature"], rel=2e-3)


def test_a_checkpoint_is_not_replaced_by_its_own_calibration(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = make_labelled_folder(tmp_path / "d", anatomies=1)
    before = tiny_checkpoint.read_bytes()
    with pytest.raises(InputError, match="input"):
        calibrate_intervals(folder, tiny_checkpoint, tiny_checkpoint)
    assert tiny_checkpoint.read_bytes() == before
