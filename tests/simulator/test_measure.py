"""The local truth: the quality of tiles, and its agreement with the image's quality."""

from dataclasses import replace

import numpy as np
import pytest

from clinreadnet.simulator.measure import Detail, Tiles, neighbourhood
from clinreadnet.simulator.phantom.draw import draw_phantom
from clinreadnet.simulator.radiologists import quality
from clinreadnet.simulator.scan import SCANS, Protocol, degrade

TILE = 32


@pytest.fixture(scope="module")
def phantom():
    return draw_phantom(3, 2, 0.4)


@pytest.fixture(scope="module")
def everything(phantom):
    return degrade(phantom, Protocol(), lambda k: np.random.default_rng((2, k)))


@pytest.fixture(scope="module")
def tiles(phantom):
    return Tiles(phantom, Detail(phantom, phantom.hu))


def test_noise_doubled_in_one_tile_lowers_it_and_not_the_distant_ones(phantom, tiles):
    rng = np.random.default_rng(0)
    error = (30 * rng.standard_normal(phantom.hu.shape)).astype(np.float32)
    row, column = np.argwhere(tiles.weight > 0.99)[0]
    louder = error.copy()
    louder[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] *= 2
    none = np.zeros((16, 16), np.float32)
    before, after = (
        tiles.measure(difference**2, none, (30.0, 0.0, 0.0, 0.0)).quality
        for difference in (error, louder)
    )
    assert after[row, column] < before[row, column] - 0.5
    far = np.hypot(*(np.indices((16, 16)) - np.array([[[row]], [[column]]]))) > 4
    np.testing.assert_allclose(after[far], before[far], atol=0.02)


def test_the_neighbourhood_is_gaussian_around_the_tiles_centre():
    image = np.zeros((512, 512), np.float32)
    image[5 * TILE + 16 - 1 : 5 * TILE + 17, 9 * TILE + 16 - 1 : 9 * TILE + 17] = 1  # the centre
    around = neighbourhood(image)
    assert np.unravel_index(around.argmax(), around.shape) == (5, 9)
    assert around[5, 8] == pytest.approx(around[5, 10], rel=1e-3)
    assert around[5, 8] / around[5, 9] == pytest.approx(np.exp(-(32**2) / 2 / 20**2), rel=0.15)
    np.testing.assert_allclose(neighbourhood(np.ones((512, 512), bool))[3:-3, 3:-3], 1, rtol=1e-3)


def test_even_noise_gives_every_tile_the_images_quality(phantom, tiles):
    rng = np.random.default_rng(1)
    error = (40 * rng.standard_normal(phantom.hu.shape)).astype(np.float32)
    measured = tiles.measure(error**2, np.zeros((16, 16), np.float32), (40.0, 0.0, 0.0, 0.0))
    body = measured.weight > 0.5
    assert np.abs(measured.quality[body] - quality(40.0, 0.0, 0.0, 0.0)).max() < 0.2


def test_the_weighted_mean_agrees_with_the_images_quality(everything):
    # Tiles are better than the image where noise is uneven: the worst of it weighs most in a root
    # mean square. The bounds are those that docs/simulator.md states.
    differences = []
    for made in everything:
        weight = made.tiles.weight
        mean = float((made.tiles.quality * weight).sum() / weight.sum())
        differences.append(abs(mean - float(quality(*made.measured))))
    assert np.mean(differences[:SCANS]) < 0.3 and np.max(differences[:SCANS]) < 0.6
    assert np.mean(differences[SCANS:]) < 1.0


def test_tiles_fall_with_dose_and_views(everything):
    means = np.array([m.tiles.quality[m.tiles.weight > 0.5].mean() for m in everything[:SCANS]])
    by_level = means.reshape(4, 3)
    assert (np.diff(by_level, axis=0) < 0).all() and (np.diff(by_level, axis=1) < 0).all()


def test_no_tile_of_a_copy_is_better_than_its_sources(everything):
    for made in everything[SCANS:]:
        source = everything[made.source]
        assert (made.tiles.quality <= source.tiles.quality).all()


def test_lost_detail_lowers_the_tiles_where_it_was(phantom):
    from scipy.ndimage import gaussian_filter

    detail = Detail(phantom, phantom.hu)
    tiles = Tiles(phantom, detail)
    blurred = phantom.hu.copy()
    blurred[:, :256] = gaussian_filter(phantom.hu, 2.5)[:, :256]
    none = np.zeros((512, 512), np.float32)
    streaks = np.zeros((16, 16), np.float32)
    measured = (0.0, 0.0, *detail.losses(blurred))
    lowered = tiles.measure(none, streaks, measured, denoised=blurred)
    body = lowered.weight > 0.8
    left, right = body[:, :7], body[:, 9:]
    assert lowered.quality[:, :7][left].mean() < lowered.quality[:, 9:][right].mean() - 0.5


def test_no_body_no_weight(phantom):
    empty = replace(phantom, body=np.zeros_like(phantom.body), tissue=np.zeros_like(phantom.tissue))
    tiles = Tiles(empty, Detail(empty, phantom.hu))
    assert not tiles.weight.any()


def test_own_noise_is_told_in_even_tissue(phantom, tiles):
    # What a denoiser took of bone is not noise.
    own = np.where(phantom.hu > 250, 400.0, 0.0).astype(np.float32)
    assert not tiles.spread(own).any()
    rng = np.random.default_rng(5)
    grain = (12 * rng.standard_normal(own.shape)).astype(np.float32)
    body = tiles.weight > 0.5
    np.testing.assert_allclose(tiles.spread(own + grain)[body], 12**2, rtol=0.35)
