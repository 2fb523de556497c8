"""The golden slices at the ends of the range."""

from __future__ import annotations

import numpy as np
import pytest
from support.export_models import disc

from clinreadnet.export.hard_slices import HARD_KINDS, hard_slices


@pytest.fixture(scope="module")
def made() -> dict[str, np.ndarray]:
    images = np.stack([disc(20, seed=1), disc(40, seed=2)])
    return dict(zip(HARD_KINDS, hard_slices(images, 7), strict=True))


def test_they_cover_the_range_and_what_lies_beyond(made: dict[str, np.ndarray]) -> None:
    assert all(hu.shape == (512, 512) and hu.dtype == np.int16 for hu in made.values())
    assert made["metal"].max() == 30_000
    assert made["saturated"].max() == 3071
    assert (made["ramp"].min(), made["ramp"][:8].max()) == (-2048, 3071)
    assert made["empty margins"].min() == -3024
    # The ramp has a pixel near each value of the scale.
    assert np.diff(np.unique(made["ramp"])).max() <= 11


def test_each_shows_what_its_name_says(made: dict[str, np.ndarray]) -> None:
    def edges(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image.astype(float), axis=1)).mean())

    assert made["air"].mean() == pytest.approx(-1000, abs=1) and 5 < made["air"].std() < 20
    assert np.ptp(made["dim"]) < 0.5 * np.ptp(made["sharp"])
    assert edges(made["denoised"]) < 0.5 * edges(made["sharp"])
    assert (made["large field"][:128] == -1000).all()
    tiles = made["tiles"].reshape(16, 32, 16, 32)
    assert (tiles == tiles[:, :1, :, :1]).all() and len(np.unique(tiles)) > 200
    blocks = made["blocks"].reshape(64, 8, 64, 8)
    assert (blocks == blocks[:, :1, :, :1]).all()
    patches = made["patches"].reshape(8, 64, 8, 64)
    constant = (np.ptp(patches, axis=(1, 3)) == 0).mean()
    assert 0.4 < constant < 0.7


def test_the_same_seed_gives_the_same_slices() -> None:
    images = np.stack([disc(20, seed=1)])
    first, again, other = (hard_slices(images, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
