"""The headers of the scored slices, from which an object takes its patient, study and references.

Nothing is invented: a slice whose header lacks what an object must refer to is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pydicom

from clinreadnet.data.dicom_container import (
    CT_IMAGE,
    Damaged,
    NotDicom,
    read_container,
    unreadable,
)
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
_FRAME_OF_REFERENCE = "FrameOfReferenceUID"
_TAGS = (*_REFERENCES, *COPIED, *_GEOMETRY, *_PHASE, _FRAME_OF_REFERENCE)


class Source(pydicom.Dataset):  # type: ignore[misc]  # pydicom has no types
    """What the objects take from the header of a file; every value is legal.

    Attributes:
        patient: PatientID as it is stored, legal or not, so that patients are told apart.
        phase: what may tell slices at one position apart; each may be empty.
    """

    patient: str = ""
    phase: tuple[str, ...] = ()


Sources = dict[Path, Source]
"""The header of each file, without pixels."""


def read_sources(refs: Sequence[SliceRef]) -> Sources:
    """Read and check the header of every slice, before anything is scored.

    Args:
        refs: slices from `find_slices`.

    Returns:
        One header for each file.

    Raises:
        InputError: a slice is not DICOM, lacks a UID or has an invalid one; two files have one
            SOPInstanceUID; or a series belongs to several studies or patients.
    """
    sources: Sources = {}
    instances: dict[str, Path] = {}
    series: dict[str, tuple[tuple[str, str], Path]] = {}
    for ref in refs:
        if ref.path in sources:
            continue
        header = _read(ref.path)
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
    """Return the number by which a reference names a frame, from 1.

    None for the only frame of a file, and for those of CT Image Storage, whose files must have one
    frame: the standard forbids the number there.
    """
    if ref.frame is None or str(source.SOPClassUID) == CT_IMAGE:
        return None
    return ref.frame + 1


def _read(path: Path) -> Source:
    try:
        with silent_libraries():
            header = read_container(path, _TAGS).header
    except NotDicom:
        raise InputError(
            f"{path}: not a DICOM file, so no DICOM object can refer to it; score it without "
            "DICOM output"
        ) from None
    except Damaged as damage:
        raise unreadable(path, damage) from None
    except InputError:
        raise
    except Exception as error:  # pydicom raises many types on damaged headers
        raise unreadable(path, Damaged(type(error).__name__)) from None
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
        if _is_uid(uid := stored_text(header, _FRAME_OF_REFERENCE)):
            source.FrameOfReferenceUID = uid
        for name in _GEOMETRY:
            try:
                source.add(header[name])
            except Exception:  # absent, or a value that pydicom cannot read: then no map is made
                continue
    return source


def _is_uid(text: str) -> bool:
    return len(text) <= 64 and _UID.fullmatch(text) is not None
