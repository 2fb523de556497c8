"""Headers of the scored slices: the source of patient, study and references of an object.

No value is made up. A slice whose header lacks a required reference is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pydicom

from clinreadnet.data.dicom_container import CT_IMAGE
from clinreadnet.data.slices import SliceRef
from clinreadnet.dicom.attributes import COPIED, copy_legal, stored_text
from clinreadnet.dicom.silence import silent_libraries
from clinreadnet.errors import InputError

_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_REFERENCES = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_GEOMETRY = (
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_PHASE = (
    "TemporalPositionIdentifier",
    "AcquisitionNumber",
    "NominalPercentageOfCardiacPhase",
    "TriggerTime",
)
SOURCE_TAGS = (*_REFERENCES, *COPIED, *_GEOMETRY, *_PHASE, "FrameOfReferenceUID")
"""Data elements to pass to `find_slices` as ``keep``."""


class NotDicom(InputError):
    """A slice is not from a DICOM file."""


class Source(pydicom.Dataset):  # type: ignore[misc]  # pydicom has no types
    """Attributes copied from the header of a file. Every value is legal.

    Attributes:
        patient: stored PatientID, legal or not, to distinguish patients.
        phase: values that can distinguish slices at one position; each may be empty.
    """

    patient: str = ""
    phase: tuple[str, ...] = ()


Sources = dict[Path, Source]
"""Header of each file, without pixels."""


def make_sources(refs: Sequence[SliceRef]) -> Sources:
    """Check the header of every slice before scoring.

    Args:
        refs: slices from `find_slices`, with ``keep=SOURCE_TAGS``.

    Returns:
        One header for each file.

    Raises:
        NotDicom: a slice is not DICOM.
        InputError: a UID is missing or invalid, two files share a SOPInstanceUID, or a series
            belongs to several studies or patients.
    """
    sources: Sources = {}
    instances: dict[str, Path] = {}
    series: dict[str, tuple[tuple[str, str], Path]] = {}
    for ref in refs:
        if ref.path in sources:
            continue
        header = make_source(ref.path, ref.header)
        first = instances.setdefault(header.SOPInstanceUID, ref.path)
        if first != ref.path:
            raise InputError(
                f"{ref.path}: has the SOPInstanceUID of {first} and other pixels, so a reference "
                "to it is ambiguous; leave one of them out"
            )
        belongs = (str(header.StudyInstanceUID), header.patient)
        other, path = series.setdefault(header.SeriesInstanceUID, (belongs, ref.path))
        if other != belongs:
            raise InputError(
                f"{ref.path}: is in the series of {path} but of another study or patient; give "
                "one study at a time"
            )
        sources[ref.path] = header
    return sources


def frame_number(ref: SliceRef, source: Source) -> int | None:
    """Return the frame number in a reference, from 1.

    None for the only frame of a file and for CT Image Storage, where the standard forbids the
    number.
    """
    if ref.frame is None or str(source.SOPClassUID) == CT_IMAGE:
        return None
    return ref.frame + 1


def make_source(path: Path, header: pydicom.Dataset | None) -> Source:
    """Return the attributes that objects copy from the header of a file.

    Args:
        path: the file.
        header: data elements of ``SOURCE_TAGS``; None if the file is not DICOM.

    Raises:
        NotDicom: the file is not DICOM.
        InputError: a UID is missing or invalid.
    """
    if header is None:
        raise NotDicom(
            f"{path}: not a DICOM file, so no DICOM object can refer to it; score it without "
            "DICOM output"
        )
    source = Source()
    source.patient = stored_text(header, "PatientID")
    source.phase = tuple(stored_text(header, name) for name in _PHASE)
    for name in _REFERENCES:
        uid = stored_text(header, name)
        if not _is_uid(uid):
            what = "no" if not uid else "an invalid"
            raise InputError(
                f"{path}: {what} {name}, so no DICOM object can refer to it; export the "
                "file again from its source, or score it without DICOM output"
            )
        setattr(source, name, uid)
    with silent_libraries():
        copy_legal(header, source)
        if _is_uid(uid := stored_text(header, "FrameOfReferenceUID")):
            source.FrameOfReferenceUID = uid
        for name in _GEOMETRY:
            try:
                source.add(header[name])
            except Exception:  # absent or unreadable: no map can be written
                continue
    return source


def _is_uid(text: str) -> bool:
    return len(text) <= 64 and _UID.fullmatch(text) is not None
