"""The headers of the scored slices, from which an object takes its patient, study and references.

Nothing is invented: a slice whose header lacks what an object must refer to is refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import pydicom

from clinreadnet.data.dicom_container import Damaged, NotDicom, read_container, unreadable
from clinreadnet.data.slices import SliceRef
from clinreadnet.errors import InputError

_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_REFERENCES = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_TAGS = (
    *_REFERENCES,
    "SpecificCharacterSet",
    "Modality",
    "BodyPartExamined",
    "ImageType",
    "SeriesNumber",
    "InstanceNumber",
    # The patient and the study, which are copied into the object.
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    # The geometry, for maps.
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "PixelSpacing",
    "SliceThickness",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PatientOrientation",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)

# Type 2 of the standard: an object has them, empty where nothing is known.
_MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)

Sources = dict[Path, pydicom.Dataset]
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
        for name in _REFERENCES:
            uid = str(header.get(name) or "")
            if len(uid) > 64 or not _UID.fullmatch(uid):
                what = "no" if not uid else "an invalid"
                raise InputError(
                    f"{ref.path}: {what} {name}, so no DICOM object can refer to it; export the "
                    "file again from its source, or score it without DICOM output"
                )
        first = instances.setdefault(header.SOPInstanceUID, ref.path)
        if first != ref.path:
            raise InputError(
                f"{ref.path}: has the SOPInstanceUID of {first} and other pixels, so a reference "
                "to it is ambiguous; leave one of them out"
            )
        belongs = (str(header.StudyInstanceUID), str(header.get("PatientID") or ""))
        other, path = series.setdefault(header.SeriesInstanceUID, (belongs, ref.path))
        if other != belongs:
            raise InputError(
                f"{ref.path}: is in the series of {path} but of another study or patient; give "
                "one study at a time"
            )
        sources[ref.path] = header
    return sources


def _read(path: Path) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values in unused fields do not matter
        try:
            header = read_container(path, _TAGS).header
            for element in header:  # converts the value, or raises
                _ = element.value
            for name in _MAY_BE_EMPTY:
                if name not in header:
                    setattr(header, name, None)
            return header
        except NotDicom:
            raise InputError(
                f"{path}: not a DICOM file, so no DICOM object can refer to it; score it without "
                "DICOM output"
            ) from None
        except Damaged as damage:
            raise unreadable(path, damage) from None
        except InputError:
            raise
        except Exception as error:  # pydicom raises many types on damaged values
            raise unreadable(path, Damaged(type(error).__name__)) from None
