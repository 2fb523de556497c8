"""Metal: attenuation, place and streaks."""

from dataclasses import replace

import numpy as np
import pytest

from clinreadnet.simulator.metal import (
    CLIPS,
    SCREWS,
    STEEL,
    TITANIUM,
    Alloy,
    average_starved,
    draw_metal,
)
from clinreadnet.simulator.phantom.draw import draw_phantom
from clinreadnet.simulator.scan import Protocol, degrade


def stream(k):
    return np.random.default_rng((2, k))


@pytest.fixture(scope="module")
def phantom():
    return draw_phantom(3, 2, 0.4)


@pytest.fixture(scope="module")
def screws(phantom):
    metal = draw_metal(SCREWS, phantom, np.random.default_rng(1))
    assert metal is not None
    return metal


@pytest.mark.parametrize("alloy", [TITANIUM, STEEL], ids=["titanium", "steel"])
def test_attenuation_hardens(alloy):
    t = np.array([0.0, 0.001, 5.0, 40.0], np.float32)
    hardened, linear = alloy.hardened(t), alloy.linear(t)
    assert hardened[0] == pytest.approx(0, abs=1e-6)
    assert hardened[1] == pytest.approx(linear[1], rel=1e-3)
    assert hardened[2] < 0.9 * linear[2]
    # Behind thick metal, half of the photons are left: those of high energy.
    transmitted = (np.exp(-alloy.low * 40) + np.exp(-alloy.high * 40)) / 2
    assert hardened[3] == pytest.approx(-np.log(transmitted), rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_clips_lie_in_the_body_and_are_small(phantom, seed):
    metal = draw_metal(CLIPS, phantom, np.random.default_rng(seed))
    assert metal is not None and metal.alloy in (TITANIUM, STEEL)
    millimetres = metal.share.sum() * phantom.pixel_mm**2
    assert 2 < millimetres < 120 and metal.share.max() <= 1
    row, column = np.array(np.nonzero(metal.share > 0.2)).mean(axis=1).astype(int)
    assert phantom.body[row, column]


def test_screws_lie_beside_the_middle_of_the_spine(phantom, screws):
    rows, columns = np.nonzero(screws.share > 0.5)
    body_rows, body_columns = np.nonzero(phantom.body)
    beside = (columns - body_columns.mean()) * phantom.pixel_mm
    assert rows.min() > body_rows.mean() and np.abs(beside).max() < 45
    assert (beside > 0).any() and (beside < 0).any()
    assert screws.near(phantom.pixel_mm)[rows, columns].all()


def test_a_slice_without_a_place_gets_no_metal(phantom):
    nothing = np.zeros_like(phantom.tissue)
    rng = np.random.default_rng(0)
    assert draw_metal(CLIPS, replace(phantom, tissue=nothing), rng) is None
    soft = np.minimum(phantom.hu, 100)
    assert draw_metal(SCREWS, replace(phantom, hu=soft, structure=soft), rng) is None


@pytest.mark.whole
def test_metal_makes_streaks_and_hardening_is_why(phantom, screws):
    (plain,) = degrade(phantom, Protocol(), stream, [0])
    (streaky,) = degrade(phantom, Protocol(), stream, [0], metal=screws)
    assert plain.streak_hu == 0 and streaky.streak_hu > 5
    assert streaky.exposure == plain.exposure  # it follows from the patient alone
    # With one energy there is nothing to harden, and all views are there.
    energy = (TITANIUM.low + TITANIUM.high) / 2
    even = replace(screws, alloy=Alloy(energy, energy))
    (same,) = degrade(phantom, Protocol(), stream, [0], metal=even)
    assert same.streak_hu < 0.05 * streaky.streak_hu


@pytest.mark.whole
def test_tiles_near_metal_are_the_worst(phantom, screws):
    (plain,) = degrade(phantom, Protocol(), stream, [0])
    (streaky,) = degrade(phantom, Protocol(), stream, [0], metal=screws)
    lost = plain.tiles.quality - streaky.tiles.quality
    metal = screws.share.reshape(16, 32, 16, 32).sum(axis=(1, 3))
    row, column = np.unravel_index(np.argmax(metal), metal.shape)
    distance = np.hypot(*(np.mgrid[:16, :16] - np.array([row, column])[:, None, None]))
    inside = streaky.tiles.weight > 0.5
    assert lost[inside & (distance < 2.5)].mean() > lost[inside & (distance > 5)].mean() + 0.3


def test_a_copy_of_a_slice_with_metal_is_not_better_than_its_source(phantom, screws):
    made = degrade(phantom, Protocol(), stream, [0, 1, 2, 12], metal=screws)
    source, copy = made[made[-1].source], made[-1]
    assert copy.streak_hu <= source.streak_hu
    assert (copy.tiles.quality <= source.tiles.quality).all()


def test_only_rays_of_few_photons_are_averaged():
    rich, poor = np.full((2, 50), 1000.0), np.zeros((2, 50))
    poor[:, ::2] = 4.0
    assert (average_starved(rich) == rich).all()
    averaged = average_starved(poor)
    assert averaged.std() < 0.3 * poor.std() and averaged.mean() == pytest.approx(2, rel=0.05)
