"""CT images in DICOM files: read the header first, then the pixels of one frame at a time.

CT Image Storage, Enhanced CT and Legacy Converted Enhanced CT are read. Localisers and all other
objects are refused by name. Stored values are rescaled to Hounsfield units with the frame's own
slope and intercept. Padding becomes air (-1000 HU).
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import UID

from clinreadnet.errors import InputError, first_line
from clinreadnet.spec import HU_MIN

PADDING_BELOW_HU = -1500.0
"""Lowest measured value. -2000, -2048 and -3024 are padding, whatever the header says."""

_CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
    "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
}
_DEFLATED = "1.2.840.10008.1.2.1.99"
_DECODERS = "`pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg`"
_TAGS: list[int | str | tuple[int, int]] = [
    "SOPClassUID",
    "Modality",
    "ImageType",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceLocation",
    "SamplesPerPixel",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]


class NotASlice(InputError):
    """The file is intact or is not DICOM, and has no CT slice. It is skipped inside a folder.

    ``what`` describes the file in a few words.
    """

    def __init__(self, message: str, what: str) -> None:
        super().__init__(message)
        self.what = what


@dataclass(frozen=True)
class DicomFrame:
    """Header values of one frame of a file.

    Attributes:
        path: the file.
        index: frame number from 0.
        frames: number of frames in the file.
        rows: image height.
        columns: image width.
        pixel_mm: width of a pixel in mm, or None.
        slope: HU per stored unit.
        intercept: HU of the stored value 0.
        units: the rescale type in the header (``HU``, ``US``); empty without one.
        padding: lowest and highest stored value that mean "outside the scan", or None.
        series_uid: SeriesInstanceUID.
        series_number: SeriesNumber, or infinity.
        projected: image position along the slice normal in mm, or None.
        location: SliceLocation in mm, or None.
        instance: InstanceNumber, or None.
        deflated: whether the whole dataset is compressed.
    """

    path: Path
    index: int
    frames: int
    rows: int
    columns: int
    pixel_mm: float | None
    slope: float
    intercept: float
    units: str
    padding: tuple[int, int] | None
    series_uid: str
    series_number: float
    projected: float | None
    location: float | None
    instance: float | None
    deflated: bool


def read_headers(path: Path) -> list[DicomFrame]:
    """Return the frames of a DICOM file without reading its pixels.

    Args:
        path: an existing file.

    Returns:
        One entry per frame, in file order.

    Raises:
        NotASlice: not DICOM, not CT, or a localiser.
        InputError: truncated, compressed by a method that no installed package decodes, or a header
            without rescale slope and intercept.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values in unused fields do not matter
        try:
            with path.open("rb") as file:
                ds = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
                pixel_bytes = os.fstat(file.fileno()).st_size - file.tell()
        except InvalidDicomError:
            raise NotASlice(
                f"{path}: not a DICOM file; give DICOM, .tif or .npy slices", "not DICOM"
            ) from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
        except Exception as error:  # pydicom raises many types on damaged headers
            raise InputError(f"{path}: damaged DICOM header ({first_line(error)})") from None
        try:
            return _frames(path, ds, pixel_bytes)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{path}: damaged DICOM header ({first_line(error)})") from None


def read_hu(frame: DicomFrame) -> NDArray[np.float32]:
    """Return the Hounsfield units of one frame, padding as air.

    Args:
        frame: from `read_headers`.

    Returns:
        float32 [rows, columns], HU.

    Raises:
        InputError: the pixel data cannot be decoded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Only this frame is read, unless the whole dataset is deflated.
            source = pydicom.dcmread(frame.path) if frame.deflated else frame.path
            stored = pixel_array(source, index=frame.index, raw=True)
        except Exception as error:  # each decoder raises its own types
            raise InputError(
                f"{frame.path}: pixel data cannot be decoded ({first_line(error)}); "
                "copy the file again or decompress it first"
            ) from None
    if stored.shape != (frame.rows, frame.columns):
        raise InputError(
            f"{frame.path}: pixel data is {by(stored.shape)}, the header says "
            f"{frame.rows}x{frame.columns}; copy the file again"
        )
    hu: NDArray[np.float32] = stored.astype(np.float32)
    hu = hu * np.float32(frame.slope) + np.float32(frame.intercept)
    outside = hu < PADDING_BELOW_HU
    if frame.padding is not None:
        low, high = frame.padding
        outside |= (stored >= low) & (stored <= high)
    hu[outside] = HU_MIN
    return hu


def _frames(path: Path, ds: pydicom.Dataset, pixel_bytes: int) -> list[DicomFrame]:
    sop_class = UID(str(ds.get("SOPClassUID") or ds.file_meta.get("MediaStorageSOPClassUID", "")))
    modality = str(ds.get("Modality", "") or "")
    if not sop_class:
        raise InputError(f"{path}: damaged DICOM header (no SOPClassUID); copy the file again")
    if sop_class not in _CT_CLASSES or modality not in ("", "CT"):
        kind = f"{sop_class.name} (modality {modality or 'not stated'})"
        raise NotASlice(f"{path}: {kind}, not CT; give CT or Enhanced CT images", kind)
    groups = list(ds.get("PerFrameFunctionalGroupsSequence") or [])
    shared = (list(ds.get("SharedFunctionalGroupsSequence") or []) or [pydicom.Dataset()])[0]
    first = groups[0] if groups else pydicom.Dataset()
    frame_type = _in_groups("CTImageFrameTypeSequence", "FrameType", first, shared, None)
    image_type = [*_words(ds.get("ImageType")), *_words(frame_type)]
    if {"LOCALIZER", "SCOUT"} & set(image_type):
        raise NotASlice(
            f"{path}: a localiser (ImageType LOCALIZER), not a slice; leave it out", "localiser"
        )
    for name in ("Rows", "Columns", "BitsAllocated"):
        if not ds.get(name):
            raise InputError(f"{path}: damaged DICOM header (no {name}); copy the file again")
    if int(ds.get("SamplesPerPixel", 1) or 1) != 1:
        raise InputError(f"{path}: a colour image, not Hounsfield units; leave it out")
    frames = int(ds.get("NumberOfFrames", 1) or 1)
    if groups and len(groups) != frames:
        raise InputError(
            f"{path}: NumberOfFrames is {frames} but {len(groups)} frames are described; "
            "export the file again from its source"
        )
    _check_pixels(path, ds, frames, pixel_bytes)
    return [
        _frame(path, ds, shared, groups[i] if groups else pydicom.Dataset(), i, frames)
        for i in range(frames)
    ]


def _frame(
    path: Path,
    ds: pydicom.Dataset,
    shared: pydicom.Dataset,
    own: pydicom.Dataset,
    index: int,
    frames: int,
) -> DicomFrame:
    def value(sequence: str, name: str) -> Any:
        return _in_groups(sequence, name, own, shared, ds)

    slope = _number(value("PixelValueTransformationSequence", "RescaleSlope"))
    intercept = _number(value("PixelValueTransformationSequence", "RescaleIntercept"))
    if slope is None or intercept is None:
        raise InputError(
            f"{path}: no RescaleSlope and RescaleIntercept, so its values are not Hounsfield "
            "units; export the file again from its source"
        )
    units = value("PixelValueTransformationSequence", "RescaleType")
    return DicomFrame(
        path=path,
        index=index,
        frames=frames,
        rows=int(ds.Rows),
        columns=int(ds.Columns),
        pixel_mm=_width(value("PixelMeasuresSequence", "PixelSpacing")),
        slope=slope,
        intercept=intercept,
        units=str(units or ""),
        padding=_padding(ds),
        series_uid=str(ds.get("SeriesInstanceUID", "") or ""),
        series_number=_or_infinity(_number(ds.get("SeriesNumber"))),
        projected=_projected(
            value("PlanePositionSequence", "ImagePositionPatient"),
            value("PlaneOrientationSequence", "ImageOrientationPatient"),
        ),
        location=_number(ds.get("SliceLocation")),
        instance=_number(ds.get("InstanceNumber")),
        deflated=ds.file_meta.TransferSyntaxUID == _DEFLATED,
    )


def _check_pixels(path: Path, ds: pydicom.Dataset, frames: int, pixel_bytes: int) -> None:
    """Check that the pixels can be decoded, before they are read."""
    syntax = ds.file_meta.get("TransferSyntaxUID")
    if not syntax:
        raise InputError(f"{path}: damaged DICOM header (no TransferSyntaxUID)")
    syntax = UID(str(syntax))
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        raise InputError(
            f"{path}: pixel data in transfer syntax {syntax.name}, which is not readable here; "
            "convert the file to Explicit VR Little Endian"
        ) from None
    if not available:
        raise InputError(
            f"{path}: pixel data is compressed ({syntax.name}); to decode it run {_DECODERS}"
        )
    if not syntax.is_compressed and syntax != _DEFLATED:
        needed = int(ds.Rows) * int(ds.Columns) * frames * int(ds.BitsAllocated) // 8
        if pixel_bytes < needed:
            raise InputError(
                f"{path}: truncated, {max(pixel_bytes, 0)} of {needed} pixel bytes are there; "
                "copy the file again"
            )


def _padding(ds: pydicom.Dataset) -> tuple[int, int] | None:
    """Return the range of stored padding values, in the signedness of the pixels.

    Some scanners write the value with the other signedness (US 63536 in signed data is -2000), so
    only its low bits are used.
    """
    value = _number(ds.get("PixelPaddingValue"))
    if value is None:
        return None
    limit = _number(ds.get("PixelPaddingRangeLimit"))
    bits = int(ds.BitsAllocated)
    sign = 1 << (bits - 1) if int(ds.get("PixelRepresentation", 0) or 0) else 0
    ends = [
        ((int(end) & ((1 << bits) - 1)) ^ sign) - sign
        for end in (value, value if limit is None else limit)
    ]
    return min(ends), max(ends)


def _projected(position: Any, orientation: Any) -> float | None:
    """Return ImagePositionPatient along the slice normal, mm; along z without an orientation."""
    try:
        point = np.asarray([float(v) for v in position])
        axes = (
            np.asarray([1.0, 0, 0, 0, 1, 0])
            if orientation is None
            else np.asarray([float(v) for v in orientation])
        )
        along = float(point @ np.cross(axes[:3], axes[3:]))
    except (TypeError, ValueError):
        return None
    return along if math.isfinite(along) else None


def _in_groups(
    sequence: str,
    name: str,
    own: pydicom.Dataset,
    shared: pydicom.Dataset,
    ds: pydicom.Dataset | None,
) -> Any:
    """Return a value from the frame's functional groups, the shared ones, or the top level."""
    for group in (own, shared):
        for item in group.get(sequence) or []:
            if item.get(name) not in (None, ""):
                return item.get(name)
    return None if ds is None else ds.get(name)


def _width(spacing: Any) -> float | None:
    """Return the second number of a PixelSpacing: the distance between columns."""
    width = _number(spacing[1]) if isinstance(spacing, Sequence) and len(spacing) == 2 else None
    return width if width is not None and width > 0 else None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value


def _words(value: Any) -> list[str]:
    parts = [value] if isinstance(value, str) else list(value or [])
    return [str(part).strip().upper() for part in parts]


def by(shape: tuple[int, ...]) -> str:
    """Return ``shape`` as text, such as 512x512."""
    return "x".join(map(str, shape))
