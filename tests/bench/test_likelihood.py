"""The likelihood of a slice under a denoiser."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from support.labelled_folder import make_labelled_folder

from bench.records import likelihood, opponents
from bench.records.likelihood import LEVELS_HU, Choice, choose, denoising_errors
from clinreadnet.data.tif import encode

DISC = np.where(np.hypot(*np.mgrid[-256:256, -256:256]) < 200, 40.0, -1000.0)


def test_the_error_of_a_denoiser_that_knows_the_anatomy_is_the_noise_of_the_slice() -> None:
    """The error is the noise's variance divided by that of the added noise."""
    rng = np.random.default_rng(0)
    own = np.where(DISC > 0, rng.normal(0, 30, DISC.shape), 0)
    anatomy = torch.from_numpy(DISC.astype(np.float32) / 100)[None, None]

    def knows(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        assert noisy.shape == (1, 1, 512, 512) and sigma.shape == (1, 1, 1, 1)
        return (noisy - anatomy) / sigma

    errors = denoising_errors(knows, DISC + own)
    ratio = 1 / np.array(LEVELS_HU) ** 2
    expected = np.stack([(own**2).mean() * ratio, (own[DISC > 0] ** 2).mean() * ratio], axis=1)
    np.testing.assert_allclose(errors, expected, rtol=1e-3)


@pytest.mark.parametrize("typical", [False, True], ids=["most likely", "most typical"])
def test_labels_choose_levels_and_pixels(typical: bool) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([4.0, 3.0, 2.0, 1.0], 10)
    errors = rng.uniform(0.4, 0.6, (40, len(LEVELS_HU), 2))
    side = rng.choice([-1, 1], 40) if typical else np.ones(40)
    errors[:, 2, 1] = 0.5 + side * (4 - labels) / 8  # exact, so that ranks are tied
    best, agreement = choose(errors, labels)
    assert best.levels == (2, 2) and best.area == "body"
    assert best.typical == (pytest.approx(0.5) if typical else None)
    assert agreement == pytest.approx(3)
    assert Choice((2, 2), "body", None).score(errors)[0] == -errors[0, 2, 1]


@pytest.mark.whole
def test_a_denoiser_of_clean_slices_ranks_noisy_copies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_labelled_folder(tmp_path / "slices", anatomies=2)
    rng = np.random.default_rng(0)
    for i, path in enumerate(sorted((folder / "image").iterdir())):
        hu = DISC + rng.normal(0, 10 * (1 + i % 4), DISC.shape)
        tifffile.imwrite(path, encode(hu.astype(np.float32)))
    for name, value in (("WIDTHS", (8, 8, 8)), ("BATCH", 4), ("CROP", 64)):
        monkeypatch.setattr(likelihood, name, value)
    minutes = itertools.count(step=60)  # one for each step
    monkeypatch.setattr(likelihood, "time", SimpleNamespace(monotonic=lambda: next(minutes)))
    out = tmp_path / "denoiser.safetensors"
    assert likelihood.main([str(folder), "--out", str(out), "--minutes", "100"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert record["steps"] == 99
    assert (record["training_slices"], record["validation_slices"]) == (1, 4)
    assert record["command"].endswith("likelihood slices --out denoiser.safetensors --minutes 100")
    assert opponents.main([str(folder), "--denoiser", str(out)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["measures"]["likelihood"]["srocc"]["value"] > 0.9
    assert result["command"].endswith("opponents slices --denoiser denoiser.safetensors")
