import numpy as np
import pytest

from clinreadnet.simulator.phantom.draw import draw_phantom
from clinreadnet.simulator.vary import move_slice, vary_slice


@pytest.fixture(scope="module")
def phantom():
    return draw_phantom(3, 2, 0.4)


def test_a_moved_slice_keeps_its_pixels(phantom):
    moved = move_slice(phantom.hu, np.random.default_rng(0))
    assert not np.array_equal(moved, phantom.hu)
    # The air that comes in is the air that was there.
    assert np.array_equal(np.sort(moved.ravel())[-100_000:], np.sort(phantom.hu.ravel())[-100_000:])
    assert np.array_equal(move_slice(phantom.hu, np.random.default_rng(0)), moved)


def test_another_field_of_view_keeps_the_millimetres(phantom):
    area = (phantom.hu > -300).sum() * phantom.pixel_mm**2
    wide = set()
    for seed in range(6):
        body_mm = np.ptp(np.nonzero(phantom.body.any(axis=0))[0]) * phantom.pixel_mm
        hu, pixel_mm = vary_slice(
            phantom.hu, phantom.pixel_mm, body_mm, np.random.default_rng(seed)
        )
        assert hu.shape == (512, 512) and hu.dtype == np.float32
        assert 250 <= 512 * pixel_mm <= 505
        wide.add(round(pixel_mm, 2))
        assert (hu > -300).sum() * pixel_mm**2 == pytest.approx(area, rel=0.12)
    assert len(wide) > 3
