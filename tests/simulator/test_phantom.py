import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from clinreadnet.simulator.phantom.draw import draw_phantom
from clinreadnet.simulator.phantom.painter import PATIENT_LENGTH_MM

ANATOMIES = [0, 1, 3]


@pytest.fixture(scope="module")
def phantoms():
    return {anatomy: draw_phantom(8, anatomy) for anatomy in ANATOMIES}


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_is_an_abdomen_in_air(phantoms, anatomy):
    phantom = phantoms[anatomy]
    hu, body = phantom.hu, phantom.body
    assert hu.shape == (512, 512) and hu.dtype == np.float32 and np.isfinite(hu).all()
    centre = np.indices(hu.shape) - 256
    assert (hu[np.hypot(*centre) > 256] == -1000).all()
    assert 0.12 < body.mean() < 0.8
    assert 250 <= 512 * phantom.pixel_mm <= 505
    share = {
        "fat": np.mean((hu[body] > -130) & (hu[body] < -70)),
        "soft tissue": np.mean((hu[body] > 10) & (hu[body] < 200)),
        "bone": np.mean(hu[body] > 300),
    }
    assert share["fat"] > 0.04 and share["soft tissue"] > 0.25 and share["bone"] > 0.005, share


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_noise_is_measured_in_even_soft_tissue(phantoms, anatomy):
    phantom = phantoms[anatomy]
    assert phantom.tissue.sum() > 5000
    assert phantom.body[phantom.tissue].all()
    assert -30 < phantom.hu[phantom.tissue].min() and phantom.hu[phantom.tissue].max() < 200


def test_organs_have_texture(phantoms):
    # Within even tissue, a pixel differs from the mean of its surroundings: no flat discs.
    for phantom in phantoms.values():
        local = phantom.hu - uniform_filter(phantom.hu, 15)
        assert 1.5 < local[phantom.tissue].std() < 25


def test_same_arguments_same_bytes(phantoms):
    again = draw_phantom(8, 1)
    assert again.hu.tobytes() == phantoms[1].hu.tobytes()


def test_seed_and_anatomy_both_matter(phantoms):
    phantom = phantoms[0]
    for other in (draw_phantom(9, 0, phantom.level), draw_phantom(8, 1, phantom.level)):
        assert np.abs(other.hu - phantom.hu).mean() > 20


def test_patient_changes_slowly_along_z():
    step = 5 / PATIENT_LENGTH_MM
    first_slice, near, far = (draw_phantom(4, 0, level) for level in (0.40, 0.40 + step, 0.80))
    assert near.phase == first_slice.phase and near.pixel_mm == first_slice.pixel_mm
    small = np.abs(near.hu - first_slice.hu)[first_slice.body].mean()
    large = np.abs(far.hu - first_slice.hu)[first_slice.body].mean()
    assert 0 < small < 0.6 * large
    # Texture too: alike in neighbouring slices, but no columns along the patient. The back muscles
    # hold nothing but texture.
    rows = np.indices(first_slice.hu.shape)[0]
    back = first_slice.tissue & near.tissue & (rows > np.quantile(rows[first_slice.body], 0.85))
    assert back.sum() > 1000
    first, second = ((p.hu - uniform_filter(p.hu, 9))[back] for p in (first_slice, near))
    assert 0.3 < np.corrcoef(first, second)[0, 1] < 0.98


def test_lies_supine_with_the_liver_on_the_left_of_the_image():
    phantom = draw_phantom(4, 0, 0.3)
    rows, columns = np.nonzero((phantom.hu > 300) & phantom.body)
    middle = np.nonzero(phantom.body)[0].mean()
    near_midline = np.abs(columns - 256) < 50
    assert rows[near_midline].mean() > middle + 20
    # The biggest even organ at this level is the liver.
    assert phantom.tissue[:256, :256].sum() > phantom.tissue[:256, 256:].sum()


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_every_level_can_be_drawn(level):
    phantom = draw_phantom(6, 5, level)
    assert phantom.level == level and phantom.tissue.sum() > 3000
