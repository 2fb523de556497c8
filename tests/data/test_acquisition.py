"""Dose and protocol are read from plain and Enhanced CT, and never stand in a score's way."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from support.dicom_files import make_ct, noise, write, write_ct, write_enhanced_ct

from clinreadnet.data.acquisition import Acquisition, read_acquisition
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
EXPECTED = Acquisition(
    4.5, 120, 100, "Br40", 1.5, "Maker Model 7", "Abdomen low dose", "2026-01-31"
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
        ({"ConvolutionKernel": ["I40f", "3"]}, "kernel", "I40f\\3"),
        ({"Manufacturer": "ACME", "ManufacturerModelName": "Acme One"}, "scanner", "Acme One"),
        ({"SeriesDate": "20251224", "StudyDate": "20251223"}, "acquired", "2025-12-24"),
        ({"AcquisitionDateTime": "20251224101500.000"}, "acquired", "2025-12-24"),
        ({"StudyDate": "20251399"}, "acquired", None),
        ({"CTDIvol": -1.0}, "ctdi_vol_mgy", None),
        ({"CTDIvol": float("nan")}, "ctdi_vol_mgy", None),
        ({"ProtocolName": "a\x1b[2Jb"}, "protocol", "a\\x1b[2Jb"),
    ],
    ids=["uAs", "kernels", "maker", "series-date", "datetime", "no-date", "minus", "nan", "escape"],
)
def test_other_ways_to_say_it(
    tmp_path: Path, tags: dict[str, object], name: str, expected: object
) -> None:
    (frame,) = read_headers(write_ct(tmp_path / "a.dcm", **tags))
    assert getattr(frame.acquisition, name) == expected


def test_enhanced_ct_gives_each_frame_its_own(tmp_path: Path) -> None:
    path = write_enhanced_ct(tmp_path / "e.dcm", 2)
    ds = pydicom.dcmread(path)

    def item(**tags: object) -> list[Dataset]:
        made = Dataset()
        for tag, value in tags.items():
            setattr(made, tag, value)
        return [made]

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
