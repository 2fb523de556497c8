"""Measures without labels that are compared with the score."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from support.labelled_folder import make_labelled_folder

from bench.records import opponents
from clinreadnet.data.tif import encode


def test_the_noise_of_a_disc_of_water_ranks_its_copies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_labelled_folder(tmp_path / "slices", anatomies=2)
    disc = np.where(np.hypot(*np.mgrid[-256:256, -256:256]) < 200, 40.0, -1000.0)
    rng = np.random.default_rng(0)
    for i, path in enumerate(sorted((folder / "image").iterdir())):
        hu = disc + rng.normal(0, 10 * (1 + i % 4), disc.shape)
        tifffile.imwrite(path, encode(hu.astype(np.float32)))
    assert opponents.main([str(folder)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["slices"] == 8 and result["left_out"] == 0
    # The label is 4 less a step for each 10 HU.
    assert result["measures"]["noise"]["plcc"]["value"] == pytest.approx(1, abs=1e-3)
    assert result["measures"]["snr"]["krocc"]["value"] == pytest.approx(1, abs=0.15)  # ties
    assert 0 < result["measures"]["snr"]["plcc"]["value"] < 0.95


def test_a_slice_without_soft_tissue_has_no_noise_level() -> None:
    assert np.isnan(opponents.noise_level(np.full((512, 512), -1000, np.int16)))
