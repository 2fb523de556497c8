"""Check whether a received object is a CT slice that can be scored and reported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinreadnet.data.dicom import NotASlice, pixel_digest, read_headers
from clinreadnet.data.slices import check_size
from clinreadnet.dicom.sources import SOURCE_TAGS, make_source
from clinreadnet.errors import InputError
from clinreadnet.node.log import hashed

SUCCESS = 0x0000
NO_ROOM = 0xA700
OTHER_CLASS = 0xA900
NOT_READABLE = 0xC000
NO_UIDS = 0xC001
OTHER_CONTENT = 0xC002

_COUNT = "NumberOfSeriesRelatedInstances"


class Refused(Exception):
    """The object is not accepted; ``status`` is the status of the C-STORE response."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Accepted:
    """Properties of an accepted object.

    Attributes:
        series: hash of patient, study and series; objects that differ in any of them are kept
            apart.
        instance: hash of the SOPInstanceUID.
        digest: SHA-256 of the pixel values, independent of their encoding.
        expected: number of objects in the series, if the header gives it.
    """

    series: str
    instance: str
    digest: str
    expected: int | None


def inspect(path: Path, sop_class: str, sop_instance: str, *, resample: bool) -> Accepted:
    """Read the header of an object and hash its pixels.

    Args:
        path: file of the object.
        sop_class: SOP class in the request.
        sop_instance: SOP instance in the request.
        resample: whether to accept sizes other than 512x512.

    Raises:
        Refused: the object is damaged, is not a CT slice, lacks a UID, or differs from the request.
    """
    try:
        frames = read_headers(path, (*SOURCE_TAGS, _COUNT))
        check_size(path, (frames[0].rows, frames[0].columns), resample)
    except NotASlice as error:
        raise Refused(OTHER_CLASS, f"not a CT slice: {error.what}") from None
    except InputError as error:
        raise Refused(NOT_READABLE, _reason(path, error)) from None
    try:
        header = make_source(path, frames[0].header)
    except InputError as error:
        raise Refused(NO_UIDS, _reason(path, error)) from None
    if (str(header.SOPClassUID), str(header.SOPInstanceUID)) != (sop_class, sop_instance):
        raise Refused(OTHER_CLASS, "its SOP class or instance is not that of the request")
    try:
        digest = pixel_digest(frames)
    except InputError:
        raise Refused(NOT_READABLE, "its pixels cannot be read") from None
    return Accepted(
        series=hashed(
            str(header.get("PatientID") or ""),
            str(header.StudyInstanceUID),
            str(header.SeriesInstanceUID),
        ),
        instance=hashed(str(header.SOPInstanceUID)),
        digest=digest,
        expected=_count(frames[0].header),
    )


def _reason(path: Path, error: InputError) -> str:
    """Return the message of an error without the path, whose name is random, and without advice."""
    return error.full.removeprefix(f"{path}: ").partition(";")[0]


def _count(header: Any) -> int | None:
    try:
        count = int(header[_COUNT].value)
    except Exception:  # absent, or one of pydicom's many errors for a damaged value
        return None
    return count if count > 0 else None
