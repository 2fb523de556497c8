"""CT images in DICOM files: read the header first, then the pixels of one frame at a time.

CT Image Storage, Enhanced CT and Legacy Converted Enhanced CT are supported. Localisers and all
other objects raise an error that names their kind. Stored values are rescaled to Hounsfield units
with the slope and intercept of the frame. Padding becomes air (-1000 HU). If the padding value lies
in the range of tissue, as in a header whose intercept was rewritten, only pixels connected to the
edges of the image count as padding.
"""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import UID

from clinreadnet.data.acquisition import (
    ACQUISITION_TAGS,
    Acquisition,
    finite_number,
    read_acquisition,
    without_damage,
)
from clinreadnet.data.dicom_container import (
    CT_CLASSES,
    DEFLATED,
    Container,
    Damaged,
    NotDicom,
    Span,
    number_of_frames,
    read_container,
    read_spans,
    unreadable,
)
from clinreadnet.data.dicom_pixels import (
    BITS,
    LEAST_BITS_STORED,
    Coding,
    Undecodable,
    can_decode,
    decode,
    native_syntax,
)
from clinreadnet.data.header_region import REGION_TAGS, Hint, read_hint
from clinreadnet.errors import InputError
from clinreadnet.spec import HU_MIN

PADDING_BELOW_HU = -1500.0
"""Lowest measured value. -2000, -2048 and -3024 are padding, whatever the header says."""

_STANDARD = "1.2.840.10008."
_SLOPES = (1e-3, 100.0)
_LARGEST_INTERCEPT = 1e5
_DECODERS = "`pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg`"
# Header values that an error message may quote. Other values could be a patient's name.
_MODALITIES = frozenset(
    "CR CT DX ECG KO MG MR NM OT PR PT PX REG RF RG RTDOSE RTIMAGE RTPLAN RTSTRUCT SC SEG SR US XA "
    "XC DOC".split()
)
_HOUNSFIELD = frozenset(("", "HU", "H", "HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS"))
_UNSPECIFIED = frozenset(("US", "UNSPECIFIED"))
_OTHER_UNITS = {
    "OD": "optical density",
    "MGML": "mg/ml",
    "Z_EFF": "effective atomic number",
    "ED": "electron density",
    "EDW": "electron density",
    "HU_MOD": "modified Hounsfield units",
    "PCT": "percent",
}
DENSEST_TISSUE_HU = 1500.0
"""Highest value of tissue (dense bone). A padding value between air and this is doubtful."""

_LEAST_RUN = 8  # pixels of padding from the edge on; in tissue, runs of one value are shorter
_OWNER = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "StudyInstanceUID",
)
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_NOT_A_UNIT = 0.1  # how far the length of a normal may be from 1
_TAGS: list[int | str | tuple[int, int]] = [
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "ImageType",
    "SeriesInstanceUID",
    "SeriesNumber",
    *_OWNER,
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceLocation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    *_GROUPS,
    *ACQUISITION_TAGS,
    *REGION_TAGS,
]


class NotASlice(InputError):
    """The file is not DICOM, or is intact but has no CT slice. Folder searches skip it.

    ``what`` is a short description of the file.
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
        unspecified: whether the header says that the rescaled values have no unit.
        padding: lowest and highest stored value that mean "outside the scan", or None.
        series_uid: SeriesInstanceUID; empty without one.
        owner: hash of the patient and the study.
        series_number: SeriesNumber, or infinity.
        projected: image position along the slice normal in mm, or None.
        normal: unit normal vector of the slice; None without an orientation.
        location: SliceLocation in mm, or None.
        instance: InstanceNumber, or None.
        instance_uid: SOPInstanceUID; empty without one.
        acquisition: dose, reconstruction, scanner and protocol.
        hint: body part or quantity that the header states.
        coding: how the pixel values are stored.
        spans: byte ranges of the frame in the file.
        header: the kept data elements, with stored values and parsed sequences; None if no elements
            were requested.
        content: bytes of the file, if it is not on disk.
    """

    path: Path
    index: int
    frames: int
    rows: int
    columns: int
    pixel_mm: float | None
    slope: float
    intercept: float
    unspecified: bool
    padding: tuple[int, int] | None
    series_uid: str
    owner: str
    series_number: float
    projected: float | None
    normal: tuple[float, float, float] | None
    location: float | None
    instance: float | None
    instance_uid: str
    acquisition: Acquisition
    hint: Hint
    coding: Coding
    spans: tuple[Span, ...]
    header: pydicom.Dataset | None = field(default=None, compare=False, repr=False)
    content: bytes | None = field(default=None, compare=False, repr=False)

    @property
    def doubtful_padding(self) -> float | None:
        """Padding value in HU if it lies in the range of tissue; otherwise None."""
        ends = [value * self.slope + self.intercept for value in self.padding or ()]
        return next((hu for hu in ends if HU_MIN < hu <= DENSEST_TISSUE_HU), None)


def read_headers(
    path: Path, keep: Sequence[str] = (), content: bytes | None = None
) -> list[DicomFrame]:
    """Return the frames of a DICOM file without reading its pixels.

    Args:
        path: an existing file, or what messages call ``content``.
        keep: names of data elements for `DicomFrame.header`.
        content: the file's bytes, if it is not on disk.

    Returns:
        One entry per frame, in file order.

    Raises:
        NotASlice: not DICOM, not CT, or a localiser.
        InputError: the file is damaged, truncated or beyond a limit, no installed package decodes
            its compression, or its values are not Hounsfield units.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values in unused fields do not matter
        try:
            container = read_container(path, [*_TAGS, *keep], partial(_check_kind, path), content)
            header = container.header[:]  # a copy, before a value is converted
            frames = [replace(frame, content=content) for frame in _frames(path, container)]
            if not keep:
                return frames
            for name in _GROUPS:
                if name in header:
                    header[name] = container.header[name]
            return [replace(frame, header=header) for frame in frames]
        except NotDicom:
            raise NotASlice(
                f"{path}: not a DICOM file; give DICOM, .tif or .npy slices", "not DICOM"
            ) from None
        except Damaged as damage:
            raise unreadable(path, damage) from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
        except InputError:
            raise
        # pydicom raises many types on damaged headers. Their messages may hold header values.
        except Exception as error:
            raise unreadable(path, Damaged(type(error).__name__)) from None


def file_of(ds: pydicom.Dataset, name: Path) -> bytes:
    """Return a dataset as the bytes of a DICOM file.

    Args:
        ds: as pydicom reads it, or built by hand: without an encoding it is written in Explicit VR
            Little Endian.
        name: what a message calls it.

    Raises:
        InputError: it cannot be written.
    """
    buffer = io.BytesIO()
    known = getattr(ds, "file_meta", None) is not None or None not in ds.original_encoding
    how: dict[str, Any] = {} if known else {"implicit_vr": False, "little_endian": True}
    try:
        pydicom.dcmwrite(buffer, ds, **how)
    except Exception as error:  # of many types, and their messages may hold header values
        raise InputError(
            f"{name}: the dataset cannot be written as DICOM ({type(error).__name__}); give the "
            "file that it comes from"
        ) from None
    return buffer.getvalue()


def read_hu(frame: DicomFrame) -> NDArray[np.int16 | np.float32]:
    """Return the Hounsfield units of one frame, padding as air.

    Args:
        frame: from `read_headers`.

    Returns:
        [rows, columns] HU: int16 if the slope is 1, the intercept a whole number and all values
        fit, else float32.

    Raises:
        InputError: the pixel data cannot be decoded.
    """
    try:
        stored = decode(_read_bytes(frame), frame.coding)
    except Undecodable as error:
        raise _undecodable(frame, error) from None
    whole = frame.slope == 1 and frame.intercept.is_integer() and stored.itemsize <= 2
    hu: NDArray[Any]
    if whole:
        hu = stored.astype(np.int32) + np.int32(frame.intercept)
    else:
        hu = stored.astype(np.float32) * np.float32(frame.slope) + np.float32(frame.intercept)
    outside = hu < PADDING_BELOW_HU
    if frame.padding is not None:
        low, high = frame.padding
        padded = (stored >= low) & (stored <= high)
        if frame.doubtful_padding is not None:
            tissue = (hu > HU_MIN) & (hu <= DENSEST_TISSUE_HU)
            fill = (_from_the_edges(stored == value) for value in {low, high})
            padded = np.logical_or.reduce([padded & ~tissue, *fill])
        outside |= padded
    hu[outside] = HU_MIN
    fits = whole and hu.max() <= np.iinfo(np.int16).max  # values too low for int16 are air by now
    return hu.astype(np.int16 if fits else np.float32, copy=False)


def pixel_digest(frames: Sequence[DicomFrame]) -> str:
    """Return the SHA-256 of the stored values of all frames. It is equal for every lossless coding.

    Args:
        frames: all frames of a file, from `read_headers`.

    Raises:
        InputError: they cannot be read.
    """
    total = hashlib.sha256()
    inflated = None
    if frames[0].coding.syntax == DEFLATED:  # it would be inflated for each frame
        spans = tuple(span for frame in frames for span in frame.spans)
        inflated = io.BytesIO(_read_bytes(replace(frames[0], spans=spans)))
    for frame in frames:
        content = _read_bytes(frame) if inflated is None else inflated.read(frame.spans[0][1])
        try:
            stored = decode(content, frame.coding)
            total.update(stored.astype(stored.dtype.newbyteorder("<")).tobytes())
        except Undecodable:  # hash the encoded bytes instead
            total.update(content)
    return total.hexdigest()


def same_pixels(frame: DicomFrame, other: DicomFrame) -> bool:
    """Return whether two frames hold the same stored values; False if one cannot be read."""
    try:
        first, second = _read_bytes(frame), _read_bytes(other)
        if frame.coding == other.coding and first == second:
            return True
        return np.array_equal(decode(first, frame.coding), decode(second, other.coding))
    except (InputError, Undecodable):
        return False


def _read_bytes(frame: DicomFrame) -> bytes:
    try:
        deflated = frame.coding.syntax == DEFLATED
        return read_spans(frame.path, frame.spans, deflated=deflated, content=frame.content)
    except (Damaged, OSError) as error:
        raise _undecodable(frame, error) from None


def _undecodable(frame: DicomFrame, error: Exception) -> InputError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InputError(
        f"{frame.path}: pixel data cannot be decoded ({reason}); "
        "copy the file again or decompress it first"
    )


def _from_the_edges(fill: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of ``fill`` [rows, columns] that are connected to a run from an edge."""
    outside = np.zeros_like(fill)
    for turns in range(4):
        turned = np.rot90(fill, turns)
        runs = np.logical_and.accumulate(turned, axis=1)
        runs &= runs.sum(axis=1, keepdims=True) >= _LEAST_RUN
        outside |= np.rot90(runs, -turns)
    while True:
        grown = outside.copy()
        grown[1:] |= outside[:-1]
        grown[:-1] |= outside[1:]
        grown[:, 1:] |= outside[:, :-1]
        grown[:, :-1] |= outside[:, 1:]
        grown &= fill
        if np.array_equal(grown, outside):
            return outside
        outside = grown


def _frames(path: Path, container: Container) -> list[DicomFrame]:
    ds = container.header
    groups = list(ds.get("PerFrameFunctionalGroupsSequence") or [])
    shared = (list(ds.get("SharedFunctionalGroupsSequence") or []) or [pydicom.Dataset()])[0]
    first = groups[0] if groups else pydicom.Dataset()
    frame_type = _in_groups("CTImageFrameTypeSequence", "FrameType", first, shared, None)
    _check_localiser(path, frame_type)
    coding = _coding(path, ds, container.syntax)
    frames = number_of_frames(ds)
    if groups and len(groups) != frames:
        raise InputError(
            f"{path}: NumberOfFrames is {frames} but {len(groups)} frames are described; "
            "export the file again from its source"
        )
    if container.pieces and coding.native:
        raise InputError(
            f"{path}: its pixels are compressed, and its transfer syntax does not say how; "
            "export the file again from its source"
        )
    if not container.pieces and (container.pixels or (0, 0))[1] >= frames * coding.frame_bytes:
        # The file's content decides: these pixels are not compressed, whatever the syntax says.
        coding = replace(coding, syntax=native_syntax(coding.syntax))
    _check_decoder(path, coding.syntax)
    spans = container.spans(frames, coding.frame_bytes if coding.native else None)
    if groups:
        return [_frame(path, ds, shared, own, i, coding, spans) for i, own in enumerate(groups)]
    frame = _frame(path, ds, shared, pydicom.Dataset(), 0, coding, spans)
    return [frame, *(replace(frame, index=i, spans=spans[i]) for i in range(1, frames))]


def _check_kind(path: Path, ds: pydicom.Dataset, media_class: str) -> None:
    """Check that the object is a CT image. A CT SOP class with another modality is an error."""
    sop_class = UID(str(ds.get("SOPClassUID") or media_class))
    modality = str(ds.get("Modality", "") or "")
    if not sop_class:
        raise Damaged("no SOPClassUID")
    named = modality in _MODALITIES
    if sop_class in CT_CLASSES and modality and not named:
        raise Damaged("a CT image of another modality")
    if sop_class in CT_CLASSES and modality in ("", "CT"):
        _check_localiser(path, ds.get("ImageType"))
        return
    known = sop_class.name != sop_class
    if not known and (sop_class.startswith(_STANDARD) or media_class in CT_CLASSES):
        raise Damaged("an unknown SOPClassUID")
    kind = (
        f"{sop_class.name if known else 'a private object'} "
        f"(modality {modality if named else 'not stated' if not modality else 'unknown'})"
    )
    raise NotASlice(f"{path}: {kind}, not CT; give CT or Enhanced CT images", kind)


def _check_localiser(path: Path, image_type: Any) -> None:
    if {"LOCALIZER", "SCOUT"} & set(_words(image_type)):
        raise NotASlice(
            f"{path}: a localiser (ImageType LOCALIZER), not a slice; leave it out", "localiser"
        )


def _coding(path: Path, ds: pydicom.Dataset, syntax: UID) -> Coding:
    for name in ("Rows", "Columns", "BitsAllocated"):
        if not ds.get(name):
            raise Damaged(f"no {name}")
    if int(ds.get("SamplesPerPixel", 1) or 1) != 1:
        raise NotASlice(f"{path}: a colour image, not Hounsfield units; leave it out", "colour")
    shown = str(ds.get("PhotometricInterpretation", "") or "MONOCHROME2").strip()
    if shown not in ("MONOCHROME1", "MONOCHROME2"):
        raise NotASlice(
            f"{path}: its PhotometricInterpretation is not MONOCHROME, so its values are colours, "
            "not Hounsfield units; leave it out",
            "colour",
        )
    allocated = int(ds.BitsAllocated)
    stored = int(ds.get("BitsStored") or allocated)
    if allocated not in BITS or not LEAST_BITS_STORED <= stored <= allocated:
        message = (
            f"{path}: {stored} bits stored in {allocated}; CT images have {LEAST_BITS_STORED} to "
            "16 in 16, and fewer cannot hold Hounsfield units"
        )
        if allocated in (8, *BITS) and stored == 8:  # a picture of a screen
            raise NotASlice(message, "8 bits")
        raise InputError(message)
    sign = int(ds.get("PixelRepresentation", 0) or 0)
    if sign not in (0, 1):
        raise Damaged("PixelRepresentation is neither 0 nor 1")
    rows, columns = int(ds.Rows), int(ds.Columns)
    return Coding(syntax, rows, columns, allocated, stored, bool(sign))


def _frame(
    path: Path,
    ds: pydicom.Dataset,
    shared: pydicom.Dataset,
    own: pydicom.Dataset,
    index: int,
    coding: Coding,
    spans: Sequence[tuple[Span, ...]],
) -> DicomFrame:
    def value(sequence: str, name: str) -> Any:
        return _in_groups(sequence, name, own, shared, ds)

    def of_its_own(sequence: str, name: str) -> Any:
        """Return a value that only this frame has; None if frames share it."""
        if len(spans) > 1:
            return _in_groups(sequence, name, own, pydicom.Dataset(), None)
        return value(sequence, name)

    readable = without_damage(value)  # values that do not affect the score
    placed = without_damage(of_its_own)
    slope = finite_number(value("PixelValueTransformationSequence", "RescaleSlope"))
    intercept = finite_number(value("PixelValueTransformationSequence", "RescaleIntercept"))
    if slope is None or intercept is None:
        raise InputError(
            f"{path}: no RescaleSlope and RescaleIntercept, so its values are not Hounsfield "
            "units; export the file again from its source"
        )
    if not _SLOPES[0] <= slope <= _SLOPES[1] or abs(intercept) > _LARGEST_INTERCEPT:
        raise InputError(
            f"{path}: RescaleSlope {slope:g} and RescaleIntercept {intercept:g} do not give "
            "Hounsfield units; export the file again from its source"
        )
    units = str(value("PixelValueTransformationSequence", "RescaleType") or "").strip().upper()
    if units not in _HOUNSFIELD | _UNSPECIFIED:
        meaning = _OTHER_UNITS.get(units)
        what = f"rescale type {units}, {meaning}" if meaning else "unknown rescale type"
        raise NotASlice(
            f"{path}: {what}, so its values are not Hounsfield units; leave it out", what
        )
    series = finite_number(readable("", "SeriesNumber"))
    position = placed("PlanePositionSequence", "ImagePositionPatient")
    normal = _normal(readable("PlaneOrientationSequence", "ImageOrientationPatient"))
    return DicomFrame(
        path=path,
        index=index,
        frames=len(spans),
        rows=coding.rows,
        columns=coding.columns,
        pixel_mm=_width(readable("PixelMeasuresSequence", "PixelSpacing")),
        slope=slope,
        intercept=intercept,
        unspecified=units in _UNSPECIFIED,
        padding=_padding(ds),
        series_uid=str(ds.get("SeriesInstanceUID", "") or "").strip(),
        owner=_owner(ds),
        series_number=math.inf if series is None else series,
        projected=_projected(position, normal),
        normal=normal,
        location=finite_number(placed("", "SliceLocation")),
        instance=finite_number(readable("", "InstanceNumber")),
        instance_uid=str(ds.get("SOPInstanceUID", "") or ""),
        acquisition=read_acquisition(value),
        hint=read_hint(value),
        coding=coding,
        spans=spans[index],
    )


def _check_decoder(path: Path, syntax: UID) -> None:
    """Check that the pixels can be decoded, before they are read."""
    try:
        available = can_decode(syntax)
    except NotImplementedError:
        named = syntax.name if syntax.name != syntax else "unknown"
        raise InputError(
            f"{path}: pixel data in transfer syntax {named}, which is not readable here; "
            "convert the file to Explicit VR Little Endian"
        ) from None
    if not available:
        raise InputError(
            f"{path}: pixel data is compressed ({syntax.name}); to decode it run {_DECODERS}"
        )


def _padding(ds: pydicom.Dataset) -> tuple[int, int] | None:
    """Return the range of stored padding values, in the signedness of the pixels.

    Some scanners write the value with the other signedness (US 63536 in signed data is -2000), so
    only its low bits are used.
    """
    value = finite_number(ds.get("PixelPaddingValue"))
    if value is None:
        return None
    limit = finite_number(ds.get("PixelPaddingRangeLimit"))
    bits = int(ds.BitsAllocated)
    sign = 1 << (bits - 1) if int(ds.get("PixelRepresentation", 0) or 0) else 0
    ends = [
        ((int(end) & ((1 << bits) - 1)) ^ sign) - sign
        for end in (value, value if limit is None else limit)
    ]
    return min(ends), max(ends)


def _normal(orientation: Any) -> tuple[float, float, float] | None:
    """Return the unit normal of a slice: z without an orientation, None if it is invalid."""
    try:
        axes = np.asarray([float(v) for v in orientation or (1, 0, 0, 0, 1, 0)])
        across = np.cross(axes[:3], axes[3:])
    except (TypeError, ValueError):
        return None
    if not abs(float(np.linalg.norm(across)) - 1) < _NOT_A_UNIT:
        return None
    x, y, z = map(float, across)
    return x, y, z


def _projected(position: Any, normal: tuple[float, float, float] | None) -> float | None:
    """Return ImagePositionPatient along the slice normal, mm."""
    try:
        along = float(np.dot([float(v) for v in position], normal))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return along if math.isfinite(along) else None


def _owner(ds: pydicom.Dataset) -> str:
    """Return a hash of the patient and the study."""
    total = hashlib.sha256()
    for name in _OWNER:
        try:
            text = str(ds.get(name) or "")
        except Exception:  # pydicom raises many types on damaged values
            text = ""
        total.update(" ".join(text.replace("^", " ").split()).casefold().encode() + b"\0")
    return total.hexdigest()


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
    width = None
    if isinstance(spacing, Sequence) and len(spacing) == 2:
        width = finite_number(spacing[1])
    return width if width is not None and width > 0 else None


def _words(value: Any) -> list[str]:
    parts = [value] if isinstance(value, str) else list(value or [])
    return [str(part).strip().upper() for part in parts]


def by(shape: tuple[int, ...]) -> str:
    """Return ``shape`` as text, such as 512x512."""
    return "x".join(map(str, shape))
