"""DICOM headers and pixels: accepted and refused files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
)
from support.dicom_files import (
    MR,
    make_ct,
    noise,
    write,
    write_ct,
    write_enhanced_ct,
    write_wrong_sign_padding,
)

from clinreadnet.data.dicom import NotASlice, read_headers, read_hu
from clinreadnet.errors import InputError

LEGACY_ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.2"


def load(path: Path) -> np.ndarray:
    (frame,) = read_headers(path)
    return read_hu(frame)


@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian],
    ids=["explicit", "implicit", "deflated"],
)
def test_hu_survive_the_file(tmp_path: Path, syntax: str) -> None:
    hu = noise()
    read = load(write_ct(tmp_path / "a.dcm", hu, syntax=syntax))
    assert read.dtype == np.int16
    np.testing.assert_array_equal(read, hu)


def test_big_endian_pixels_are_read(tmp_path: Path) -> None:
    hu = noise()
    ds = make_ct(hu, syntax=ExplicitVRBigEndian)
    ds.PixelData = (hu + 1024).astype(">i2").tobytes()
    np.testing.assert_array_equal(load(write(tmp_path / "a.dcm", ds)), hu)


def test_rle_pixels_are_read(tmp_path: Path) -> None:
    hu = noise()
    ds = make_ct(hu)
    ds.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(load(write(tmp_path / "a.dcm", ds)), hu)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    ds = make_ct(noise(), RescaleSlope=0.5, RescaleIntercept=-100)
    stored = np.frombuffer(ds.PixelData, "<i2").reshape(512, 512)
    np.testing.assert_array_equal(load(write(tmp_path / "a.dcm", ds)), stored * 0.5 - 100)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=["explicit", "implicit"]
)
def test_padding_of_the_wrong_sign_becomes_air(tmp_path: Path, syntax: str) -> None:
    path = write_wrong_sign_padding(tmp_path / "a.dcm", syntax)
    (frame,) = read_headers(path)
    assert frame.padding == (-2000, -2000)
    hu = read_hu(frame)
    assert (hu[:50] == -1000).all() and hu[50:500, 16:-16].min() > -300


@pytest.mark.parametrize(
    ("tags", "stored", "expected"),
    [
        ({"PixelPaddingValue": 3000}, 3000, -1000),
        ({}, 3000, 3000 - 1024),
        ({"PixelPaddingValue": 2900, "PixelPaddingRangeLimit": 3100}, 3000, -1000),
        ({"PixelPaddingValue": 3100, "PixelPaddingRangeLimit": 2900}, 3000, -1000),
        ({"PixelPaddingValue": 2900}, 3000, 3000 - 1024),
        ({}, -1024, -1000),
        ({}, -976, -1000),
        ({}, -2000, -1000),
        ({}, -26, -1050),
    ],
    ids=[
        "value",
        "no-padding",
        "inside-range",
        "inside-reversed-range",
        "another-value",
        "hu-2048-untold",
        "hu-2000-untold",
        "hu-3024-untold",
        "noise-below-air-stays",
    ],
)
def test_padding(tmp_path: Path, tags: dict[str, int], stored: int, expected: float) -> None:
    ds = make_ct(noise(), **tags)
    for name in tags:
        ds[name].VR = "SS"
    pixels = np.frombuffer(ds.PixelData, "<i2").reshape(512, 512).copy()
    pixels[3, 4] = stored
    ds.PixelData = pixels.tobytes()
    hu = load(write(tmp_path / "a.dcm", ds))
    assert hu[3, 4] == expected
    assert np.count_nonzero(hu != noise()) == 1


def test_negative_padding_in_unsigned_data_is_read_as_the_pixels_are(tmp_path: Path) -> None:
    ds = make_ct(noise(), PixelRepresentation=0)
    ds.add_new("PixelPaddingValue", "SS", -2000)
    (frame,) = read_headers(write(tmp_path / "a.dcm", ds))
    assert frame.padding == (63536, 63536)


@pytest.mark.parametrize("shared", [True, False], ids=["shared-rescale", "per-frame-rescale"])
def test_enhanced_ct_gives_its_frames(tmp_path: Path, shared: bool) -> None:
    path = write_enhanced_ct(tmp_path / "e.dcm", 3, shared_rescale=shared)
    frames = read_headers(path)
    assert [f.index for f in frames] == [0, 1, 2]
    assert [f.projected for f in frames] == [0, -5, -10]
    for i, frame in enumerate(frames):
        expected = noise(i) + 100 * i + (0 if shared else i)
        np.testing.assert_array_equal(read_hu(frame), expected)


def test_position_is_taken_along_the_normal_of_a_tilted_slice(tmp_path: Path) -> None:
    tilt = np.deg2rad(20)
    path = write_ct(
        tmp_path / "a.dcm",
        ImageOrientationPatient=[1, 0, 0, 0, float(np.cos(tilt)), float(np.sin(tilt))],
        ImagePositionPatient=[5, 10, 20],
    )
    (frame,) = read_headers(path)
    assert frame.projected == pytest.approx(20 * np.cos(tilt) - 10 * np.sin(tilt))


def test_legacy_converted_enhanced_ct_is_read(tmp_path: Path) -> None:
    path = write_enhanced_ct(tmp_path / "e.dcm", 2)
    ds = pydicom.dcmread(path)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UID(LEGACY_ENHANCED_CT)
    ds.save_as(path)
    assert len(read_headers(path)) == 2


REFUSED_TAGS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "localiser": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, NotASlice, "a localiser"),
    "mr": (
        {"SOPClassUID": MR, "Modality": "MR"},
        NotASlice,
        r"MR Image Storage \(modality MR\), not CT",
    ),
    "pet-in-ct-class": ({"Modality": "PT"}, NotASlice, r"modality PT\), not CT"),
    "secondary-capture": (
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "OT"},
        NotASlice,
        "Secondary Capture Image Storage",
    ),
    "no-rescale": ({"RescaleIntercept": None}, InputError, "no RescaleSlope and Rescale"),
    "empty-rescale": ({"RescaleSlope": ""}, InputError, "no RescaleSlope and Rescale"),
    "no-rows": ({"Rows": None}, InputError, "no Rows"),
    "colour": ({"SamplesPerPixel": 3}, InputError, "a colour image"),
    "frames-not-described": (
        {"NumberOfFrames": 2, "PerFrameFunctionalGroupsSequence": [pydicom.Dataset()]},
        InputError,
        "NumberOfFrames is 2 but 1 frames",
    ),
    "more-frames-than-pixels": ({"NumberOfFrames": 2}, InputError, "truncated"),
}


@pytest.mark.parametrize(
    ("tags", "kind", "message"), REFUSED_TAGS.values(), ids=REFUSED_TAGS.keys()
)
def test_headers_that_are_no_slice_are_refused_by_name(
    tmp_path: Path, tags: dict[str, Any], kind: type[Exception], message: str
) -> None:
    path = write_ct(tmp_path / "bad.dcm", **tags)
    with pytest.raises(kind, match=message) as refusal:
        read_headers(path)
    assert str(refusal.value).startswith(f"{path}: ") and "\n" not in str(refusal.value)


def test_enhanced_localiser_frames_are_refused(tmp_path: Path) -> None:
    path = write_enhanced_ct(tmp_path / "e.dcm", 1)
    ds = pydicom.dcmread(path)
    kind = pydicom.Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    ds.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence = [kind]
    ds.save_as(path)
    with pytest.raises(NotASlice, match="localiser"):
        read_headers(path)


@pytest.mark.parametrize("keep", [0.5, 0.99], ids=["half", "last-percent"])
def test_truncated_pixels_are_refused_by_the_header_pass(tmp_path: Path, keep: float) -> None:
    path = write_ct(tmp_path / "a.dcm")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InputError, match="truncated, .* pixel bytes are there"):
        read_headers(path)


@pytest.mark.parametrize("length", [140, 200, 350, 500, 700, 900])
def test_truncated_headers_are_refused(tmp_path: Path, length: int) -> None:
    path = write_ct(tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError) as refusal:
        read_headers(path)
    assert "\n" not in str(refusal.value) and str(path) in str(refusal.value)


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_text("Patient: none\n" * 100)
    with pytest.raises(NotASlice, match="not a DICOM file"):
        read_headers(path)


def test_compressed_pixels_without_a_decoder_name_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = make_ct(noise())
    ds.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    ds.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    ds["PixelData"].VR = "OB"
    path = write(tmp_path / "a.dcm", ds)
    decoder = pydicom.pixels.get_decoder(JPEGLosslessSV1)
    monkeypatch.setattr(type(decoder), "is_available", False)
    with pytest.raises(InputError, match="JPEG Lossless.*`pip install pylibjpeg "):
        read_headers(path)


def test_damaged_compressed_pixels_are_one_line(tmp_path: Path) -> None:
    ds = make_ct(noise())
    ds.compress(RLELossless, generate_instance_uid=False)
    ds.PixelData = pydicom.encaps.encapsulate([b"\x00" * 64])
    (frame,) = read_headers(write(tmp_path / "a.dcm", ds))
    with pytest.raises(InputError, match="cannot be decoded") as refusal:
        read_hu(frame)
    assert "\n" not in str(refusal.value)


def test_reading_prints_and_warns_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    ds = make_ct(noise())
    ds.PixelData += b"\x00" * 512  # pydicom warns about excess pixel bytes
    load(write(tmp_path / "a.dcm", ds))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
