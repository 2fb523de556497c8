"""DICOM files for tests, written with pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
MR = "1.2.840.10008.5.1.4.1.1.4"
STUDY = "1.2.826.0.1.3680043.8.498.2"
SERIES = "1.2.826.0.1.3680043.8.498.1"


def noise(seed: int = 0, shape: tuple[int, ...] = (512, 512)) -> NDArray[np.int16]:
    """Return an abdomen as coarse as can be, with noise, under a strip of air, HU."""
    hu = np.random.default_rng(seed).normal(40, 30, shape).astype(np.int16)
    return with_abdomen(hu)


def bright(seed: int = 0) -> NDArray[np.int16]:
    """Return `noise` with tissue so bright that the tiny bundle finds it novel."""
    hu = noise(seed)
    hu[hu > -40] += 195
    return hu


def with_abdomen(hu: NDArray[Any]) -> NDArray[Any]:
    """Put air around tissue of 40 HU [..., rows, columns], fat below its skin and a spine into it.

    In place. It passes for an abdomen, as far as `clinreadnet.data.region` can tell.
    """
    rows, columns = hu.shape[-2:]
    top, side = rows // 16, max(min(rows, columns) // 64, 1)
    outside = np.ones((rows, columns), bool)
    outside[top:-side, side:-side] = False
    inside = np.zeros_like(outside)
    inside[top + 2 * side : -3 * side, 3 * side : -3 * side] = True
    hu[..., ~inside & ~outside] -= 130
    hu[..., outside] -= 1040
    middle = columns // 2
    hu[..., rows * 3 // 4 : rows * 13 // 16, middle - columns // 32 : middle + columns // 32] += 250
    return hu


def make_ct(
    hu: NDArray[Any], *, syntax: str = ExplicitVRLittleEndian, intercept: float = -1024, **tags: Any
) -> Dataset:
    """Return a CT Image Storage dataset of signed 16-bit values; None removes a tag."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.SOPClassUID = UID(CT)
    ds.SOPInstanceUID = pydicom.uid.generate_uid()
    ds.Modality = "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyInstanceUID = STUDY
    ds.SeriesInstanceUID = SERIES
    ds.SeriesNumber = 1
    ds.InstanceNumber = 1
    ds.ImagePositionPatient = [-180, -180, 0]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.3"
    ds.PixelSpacing = [0.7, 0.7]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = hu.shape[-2:]
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 1
    ds.RescaleSlope, ds.RescaleIntercept = 1, intercept
    ds.PixelData = (hu - intercept).astype("<i2").tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CT)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def write(path: Path, ds: Dataset) -> Path:
    ds.save_as(path, enforce_file_format=True)
    return path


def comment(report: Dataset) -> str:
    """Return the text of a structured report's comment."""
    (text,) = (
        item.TextValue
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "121106"
    )
    return str(text)


def write_ct(path: Path, hu: NDArray[Any] | None = None, **tags: Any) -> Path:
    return write(path, make_ct(noise() if hu is None else hu, **tags))


def write_series(folder: Path, count: int, *, step: float = 2.5, **tags: Any) -> Path:
    """Write slices whose file names run against their positions."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        write_ct(
            folder / f"IM{count - i:04d}.dcm",
            noise(i),
            ImagePositionPatient=[-180, -180, step * i],
            InstanceNumber=i + 1,
            **tags,
        )
    return folder


def write_wrong_sign_padding(path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write signed data padded with -2000, whose PixelPaddingValue says US 63536 as GE's does."""
    ds = make_ct(noise(), syntax=syntax, intercept=0)
    stored = np.frombuffer(ds.PixelData, "<i2").reshape(512, 512).copy()
    stored[:50] = -2000
    ds.PixelData = stored.tobytes()
    ds.add_new("PixelPaddingValue", "US", 63536)
    assert syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    return write(path, ds)


def write_enhanced_ct(path: Path, count: int = 3, *, shared_rescale: bool = True) -> Path:
    """Write one multi-frame file: frame i is constant noise + 100 i HU at z = -5 i mm."""
    frames = np.stack([noise(i) + 100 * i for i in range(count)])
    ds = make_ct(frames, SOPClassUID=ENHANCED_CT, NumberOfFrames=count)
    for name in ("RescaleSlope", "RescaleIntercept", "ImagePositionPatient"):
        delattr(ds, name)
    del ds.ImageOrientationPatient

    def rescale(intercept: float) -> list[Dataset]:
        item = Dataset()
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = 1, intercept, "HU"
        return [item]

    shared, orientation = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PlaneOrientationSequence = [orientation]
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = ds.PixelSpacing, 5
    del ds.PixelSpacing
    shared.PixelMeasuresSequence = [measures]
    if shared_rescale:
        shared.PixelValueTransformationSequence = rescale(-1024)
    ds.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for i in range(count):
        group, place = Dataset(), Dataset()
        place.ImagePositionPatient = [-180, -180, -5.0 * i]
        group.PlanePositionSequence = [place]
        if not shared_rescale:
            group.PixelValueTransformationSequence = rescale(-1024 + i)
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    return write(path, ds)
