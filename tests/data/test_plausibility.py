"""Images that cannot be CT slices are refused, and real slices are not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.bodies import body
from support.dicom_files import noise, write_ct
from support.strange_slices import STRANGE, strange_slice

from clinreadnet.data.plausibility import count_pixels, implausible
from clinreadnet.data.slices import find_slices
from clinreadnet.errors import InputError


def abdomen() -> np.ndarray:
    return noise().astype(np.float32)


def checkerboard() -> np.ndarray:
    return (np.indices((512, 512)).sum(axis=0) % 2 * 1000 - 1000).astype(np.float32)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        pytest.param(np.full((512, 512), 40.0), "blank, every pixel is 40 HU", id="blank"),
        pytest.param(np.full((512, 512), -0.0), "blank, every pixel is 0 HU", id="zero"),
        pytest.param(abdomen() * 1e30, "where Hounsfield units lie in -32768", id="huge"),
        pytest.param(np.where(abdomen() > 0, 1e35, -1e35), "1e\\+35", id="1e35"),
        pytest.param((abdomen() + 1000) / 1400, "different values", id="encoded"),
        pytest.param(checkerboard(), "only 2 different values", id="one-bit"),
        pytest.param(abdomen() * 0 - 1000 + abdomen() % 70, "soft tissue", id="air-alone"),
        pytest.param(-1024 - (abdomen() + 1024), "soft tissue", id="slope-minus-one"),
        pytest.param(np.where(abdomen() < -30, 1000, abdomen()), "below -30 HU", id="no-air"),
        pytest.param(abdomen().clip(0, 255), "below -30 HU", id="grey-values"),
        pytest.param(
            np.where(np.indices((512, 512))[0] < 200, 1000, abdomen() - 30),
            "700 HU",
            id="sign-lost",
        ),
    ],
)
def test_what_cannot_be_a_slice_is_refused(image: np.ndarray, reason: str) -> None:
    import re

    message = implausible(count_pixels(image))
    assert message is not None and re.search(reason, message), message


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("factor", [1e300, np.nan, np.inf])
def test_values_beyond_float32_are_counted_without_a_warning(factor: float) -> None:
    image = np.where(abdomen() > 0, factor, abdomen().astype(np.float64))
    pixels = count_pixels(image)
    assert pixels.finite == np.isfinite(factor)
    if pixels.finite:
        assert "1e+300" in str(implausible(pixels))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float16, np.float32, np.float64])
def test_a_body_is_a_slice_in_any_dtype(dtype: type) -> None:
    assert implausible(count_pixels(body(40).astype(dtype))) is None


@pytest.mark.parametrize("kind", [k for k in STRANGE if k != "magnetic resonance"])
def test_a_slice_of_another_region_is_for_the_novelty_to_judge(kind: str) -> None:
    assert implausible(count_pixels(strange_slice(kind, 1, abdomen()))) is None


def test_values_of_magnetic_resonance_are_refused() -> None:
    assert implausible(count_pixels(strange_slice("magnetic resonance", 1, abdomen()))) is not None


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        pytest.param({"RescaleSlope": 0}, "RescaleSlope 0", id="slope-0"),
        pytest.param({"RescaleSlope": -1}, "RescaleSlope -1", id="slope-negative"),
        pytest.param({"RescaleSlope": "1e30"}, r"RescaleSlope 1e\+30", id="slope-1e30"),
        pytest.param({"BitsStored": 1, "HighBit": 0}, "1 bits stored", id="one-bit"),
        pytest.param({"PhotometricInterpretation": "PALETTE COLOR"}, "colours", id="palette"),
    ],
)
def test_a_header_that_cannot_give_hounsfield_units_is_refused(
    tmp_path: Path, tags: dict[str, object], reason: str
) -> None:
    path = write_ct(tmp_path / "a.dcm", **tags)
    with pytest.raises(InputError, match=reason):
        find_slices([path])[0].load()


def test_a_lost_sign_is_refused(tmp_path: Path) -> None:
    hu = noise()
    hu[:200] = -1000
    path = write_ct(tmp_path / "a.dcm", hu, intercept=0, PixelRepresentation=0)
    with pytest.raises(InputError, match="not a CT slice in HU"):
        find_slices([path])[0].load()


@pytest.mark.skipif(
    "CLINREADNET_REAL_DATA" not in os.environ,
    reason="CLINREADNET_REAL_DATA does not name a folder of real slices",
)
def test_no_real_slice_is_refused() -> None:
    refs = find_slices([Path(os.environ["CLINREADNET_REAL_DATA"])], resample=True)
    assert len(refs) >= 30
    for ref in refs:
        ref.load()
