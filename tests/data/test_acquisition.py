"""Dose and protocol are read from plain and Enhanced CT, and never prevent a score."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from support.dicom_files import make_ct, noise, write, write_ct, write_enhanced_ct

from clinreadnet.data.acquisition import (
    CHECKED,
    COMPUTED,
    CORRECTED,
    EXPOSURE_SOURCES,
    LEFT_OUT,
    UNCHECKED,
    Acquisition,
    exposure_lines,
    read_acquisition,
)
from clinreadnet.data.dicom import read_headers

HEADER = {
    "CTDIvol": 4.5,
    "Exposure": 120,
    "KVP": 100,
    "ConvolutionKernel": "Br40",
    "SliceThickness": 1.5,
    "Manufacturer": "Maker",
    "ManufacturerModelName": "Model 7",
    "ProtocolName": "Abdomen low dose",
    "AcquisitionDate": "20260131",
}


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


EXPECTED = Acquisition(
    4.5, 120, 100, "Br40", 1.5, "Maker Model 7", "Abdomen low dose", "2026-01-31", UNCHECKED
)


def test_a_ct_image(tmp_path: Path) -> None:
    (frame,) = read_headers(write_ct(tmp_path / "a.dcm", **HEADER))
    assert frame.acquisition == EXPECTED


def test_a_header_without_them(tmp_path: Path) -> None:
    (frame,) = read_headers(write_ct(tmp_path / "a.dcm"))
    assert frame.acquisition == Acquisition()


@pytest.mark.parametrize(
    ("tags", "name", "expected"),
    [
        ({"ExposureInuAs": 85500}, "exposure_mas", 85.5),
        ({"XRayTubeCurrent": 210}, "tube_current_ma", 210.0),
        ({"XRayTubeCurrentInuA": 85500.0, "XRayTubeCurrent": 85}, "tube_current_ma", 85.5),
        ({"XRayTubeCurrent": 0}, "tube_current_ma", None),
        ({"ConvolutionKernel": ["I40f", "3"]}, "kernel", "I40f\\3"),
        ({"Manufacturer": "ACME", "ManufacturerModelName": "Acme One"}, "scanner", "Acme One"),
        ({"SeriesDate": "20251224", "StudyDate": "20251223"}, "acquired", "2025-12-24"),
        ({"AcquisitionDateTime": "20251224101500.000"}, "acquired", "2025-12-24"),
        ({"StudyDate": "20251399"}, "acquired", None),
        ({"StudyDate": "20250230", "SeriesDate": ""}, "acquired", None),
        ({"DeviceSerialNumber": "54961"}, "device", hashed("54961")),
        ({"DeviceSerialNumber": "*", "StationName": "CT3"}, "device", hashed("ct3")),
        ({"DeviceSerialNumber": "0000", "StationName": "ANONYMIZED"}, "device", None),
        ({"CTDIvol": -1.0}, "ctdi_vol_mgy", None),
        ({"CTDIvol": float("nan")}, "ctdi_vol_mgy", None),
        ({"ProtocolName": "a\x1b[2Jb"}, "protocol", "a\\x1b[2Jb"),
    ],
    ids=[
        "uAs",
        "mA",
        "uA",
        "no-mA",
        "kernels",
        "maker",
        "series-date",
        "datetime",
        "no-date",
        "no-day",
    ]
    + ["serial", "station", "no-device", "minus", "nan", "escape"],
)
def test_other_ways_to_say_it(
    tmp_path: Path, tags: dict[str, object], name: str, expected: object
) -> None:
    (frame,) = read_headers(write_ct(tmp_path / "a.dcm", **tags))
    assert getattr(frame.acquisition, name) == expected


@pytest.mark.parametrize(
    ("tags", "exposure", "source"),
    [
        ({"Exposure": 120, "XRayTubeCurrent": 240, "ExposureTime": 500}, 120, CHECKED),
        ({"Exposure": 120, "XRayTubeCurrent": 391, "ExposureTime": 500}, 120, CHECKED),
        ({"Exposure": 450, "XRayTubeCurrent": 200, "ExposureTime": 500}, 450, CHECKED),
        ({"Exposure": 5100, "XRayTubeCurrent": 300, "ExposureTime": 504}, 151.2, CORRECTED),
        ({"Exposure": 11, "XRayTubeCurrent": 303, "ExposureTime": 800}, 242.4, CORRECTED),
        ({"Exposure": 4, "XRayTubeCurrent": 381, "ExposureTime": 500}, 190.5, CORRECTED),
        (
            {"Exposure": 60, "XRayTubeCurrent": 200, "ExposureTime": 500, "SpiralPitchFactor": 1},
            100,
            CORRECTED,
        ),
        (
            {"Exposure": 60, "XRayTubeCurrent": 200, "ExposureTime": 500, "SpiralPitchFactor": 1.5},
            60,
            CHECKED,
        ),
        (
            {"Exposure": 1900, "XRayTubeCurrent": 200, "ExposureTime": 500}
            | {"SpiralPitchFactor": 0.001},
            100,
            CORRECTED,
        ),
        ({"Exposure": 0, "XRayTubeCurrent": 180, "ExposureTime": 2000}, 360, COMPUTED),
        ({"XRayTubeCurrent": 180, "ExposureTime": 2000}, 360, COMPUTED),
        ({"XRayTubeCurrentInuA": 200_000, "ExposureTimeInuS": 500_000}, 100, COMPUTED),
        (
            {"Exposure": 100_000, "ExposureInuAs": 100_000, "XRayTubeCurrent": 200}
            | {"ExposureTime": 500},
            100,
            CHECKED,
        ),
        ({"Exposure": 150_000, "ExposureInuAs": 150_000}, 150, UNCHECKED),
        ({"Exposure": 150_000}, None, LEFT_OUT),
        ({"Exposure": 0}, None, LEFT_OUT),
        ({"XRayTubeCurrent": 300}, None, None),
        ({"Exposure": 150, "XRayTubeCurrent": 300, "ExposureTime": 17000}, 150, UNCHECKED),
        ({"Exposure": 150, "XRayTubeCurrent": 300, "ExposureTime": 5000}, 150, UNCHECKED),
        (
            {"Exposure": 150, "XRayTubeCurrent": 300, "ExposureTime": 3000}
            | {"RevolutionTime": 0.5},
            150,
            CHECKED,
        ),
        (
            {"Exposure": 5100, "XRayTubeCurrent": 300, "ExposureTime": 17000}
            | {"RevolutionTime": 0.5},
            150,
            CORRECTED,
        ),
    ],
    ids=(
        "agrees divided-by-pitch slow-pitch whole-scan part-of-rotation four pitch-1 pitch-1.5 "
        "no-pitch zero none micro uAs-in-both uAs-alone uAs-in-mAs zero-alone no-time long-time "
        "whole-time rotation-agrees rotation"
    ).split(),
)
def test_an_exposure_is_compared_with_tube_current_times_time(
    tmp_path: Path, tags: dict[str, object], exposure: float | None, source: str | None
) -> None:
    (frame,) = read_headers(write_ct(tmp_path / "a.dcm", **tags))
    assert frame.acquisition.exposure_mas == (exposure and pytest.approx(exposure))
    assert frame.acquisition.exposure_source == source
    assert source is None or source in EXPOSURE_SOURCES


@pytest.mark.skipif(
    "CLINREADNET_REAL_DATA" not in os.environ,
    reason="CLINREADNET_REAL_DATA does not name a folder of real slices",
)
@pytest.mark.parametrize(
    ("name", "exposure", "source"),
    [
        ("liver-dome/01.dcm", 151.2, CORRECTED),  # 5100 in the header
        ("abdomen-ge/CT20.dcm", 242.4, CORRECTED),  # 11
        ("tcga/ID_0070_AGE_0074_CONTRAST_0_CT.dcm", 190.5, CORRECTED),  # 4
        ("chest-lidc/000000.dcm", 228, CORRECTED),  # 4684
        ("head-ge/02.dcm", 360, COMPUTED),
        ("tcga/ID_0032_AGE_0061_CONTRAST_1_CT.dcm", 120, CHECKED),  # 195.5 over the pitch
        ("tcga/ID_0041_AGE_0045_CONTRAST_1_CT.dcm", 218, CHECKED),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_exposures_of_real_headers(name: str, exposure: float, source: str) -> None:
    (frame,) = read_headers(Path(os.environ["CLINREADNET_REAL_DATA"]) / name)
    assert frame.acquisition.exposure_mas == pytest.approx(exposure)
    assert frame.acquisition.exposure_source == source


def test_lines_count_the_exposures_that_are_not_those_of_the_headers() -> None:
    sources = [CHECKED, CORRECTED, UNCHECKED, CORRECTED, LEFT_OUT, None]
    assert exposure_lines([Acquisition(exposure_source=source) for source in sources]) == [
        f"Exposure (mAs) of 2 of 6 slices is {EXPOSURE_SOURCES[CORRECTED]}.",
        f"Exposure (mAs) of 1 of 6 slices is {EXPOSURE_SOURCES[LEFT_OUT]}.",
    ]


def test_enhanced_ct_gives_each_frame_its_own(tmp_path: Path) -> None:
    path = write_enhanced_ct(tmp_path / "e.dcm", 2)
    ds = pydicom.dcmread(path)

    def item(**tags: object) -> list[Dataset]:
        ds = Dataset()
        for tag, value in tags.items():
            setattr(ds, tag, value)
        return [ds]

    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.CTXRayDetailsSequence = item(KVP=80)
    shared.CTReconstructionSequence = item(ConvolutionKernel="Hr49")
    shared.PixelMeasuresSequence = item(SliceThickness=3)
    for i, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        group.CTExposureSequence = item(CTDIvol=float(i + 1), ExposureInmAs=10.0 * (i + 1))
    write(path, ds)
    first, second = (frame.acquisition for frame in read_headers(path))
    assert (first.ctdi_vol_mgy, second.ctdi_vol_mgy) == (1, 2)
    assert (first.exposure_mas, second.exposure_mas) == (10, 20)
    assert (second.kvp, second.kernel, second.thickness_mm) == (80, "Hr49", 3)


def test_a_damaged_value_refuses_no_slice(tmp_path: Path) -> None:
    ds = make_ct(noise(), KVP="100", CTDIvol=2.0)
    path = write(tmp_path / "a.dcm", ds)
    content = path.read_bytes()
    at = content.index(b"\x18\x00\x60\x00DS")
    assert content[at + 8 : at + 12] == b"100 "
    path.write_bytes(content[: at + 8] + b"a.b " + content[at + 12 :])
    (frame,) = read_headers(path)
    assert frame.acquisition == Acquisition(ctdi_vol_mgy=2.0)


def test_a_value_that_raises_counts_as_missing() -> None:
    def value(sequence: str, name: str) -> object:
        if name == "KVP":
            raise NotImplementedError("as pydicom does on damaged values")
        return "2.0" if name == "CTDIvol" else None

    assert read_acquisition(value) == Acquisition(ctdi_vol_mgy=2.0)


def phantom(code: str, scheme: str = "DCM") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, scheme, "a phantom"
    return item


@pytest.mark.parametrize(
    ("sequence", "size"),
    [
        ([phantom("113691")], 32.0),
        ([phantom("113690 ")], 16.0),
        ([phantom("130541")], None),
        ([phantom("113691", "99MAKER")], None),
        ([phantom("1", "99MAKER"), phantom("113691")], 32.0),
        ([Dataset()], None),
        ([], None),
    ],
    ids=["body", "head", "small", "private", "two", "empty", "none"],
)
def test_the_phantom_of_ctdi_vol(
    tmp_path: Path, sequence: list[Dataset], size: float | None
) -> None:
    path = write_ct(tmp_path / "a.dcm", CTDIvol=4.0, CTDIPhantomTypeCodeSequence=sequence)
    (frame,) = read_headers(path)
    assert frame.acquisition.ctdi_phantom_cm == size


def test_the_phantom_of_a_frame(tmp_path: Path) -> None:
    path = write_enhanced_ct(tmp_path / "e.dcm", 2)
    ds = pydicom.dcmread(path)
    exposure = Dataset()
    exposure.CTDIvol, exposure.CTDIPhantomTypeCodeSequence = 3.0, [phantom("113691")]
    ds.PerFrameFunctionalGroupsSequence[1].CTExposureSequence = [exposure]
    first, second = read_headers(write(path, ds))
    assert (first.acquisition.ctdi_phantom_cm, second.acquisition.ctdi_phantom_cm) == (None, 32.0)
