"""Copy patient and study attributes, with values that the DICOM standard allows.

A legal value is copied. A value with one possible legal form (``12:30:15``, ``male``,
``1945.03.12``) is corrected. Any other value is omitted, or empty if the attribute is required.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from datetime import date

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.valuerep import format_number_as_ds

from clinreadnet.data.character_sets import UTF_8

EMPTY_OR_LEGAL = (
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
"""Type 2 attributes: required, empty if unknown."""

ABSENT_OR_LEGAL = (
    "IssuerOfPatientID",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyDescription",
    "BodyPartExamined",
)
"""Type 3 attributes: present only if known."""

COPIED = (*EMPTY_OR_LEGAL, *ABSENT_OR_LEGAL)
"""Attributes that an object copies from the headers of its slices, besides UIDs and geometry."""

UNPAIRED = frozenset(
    "ABDOMEN ABDOMENPELVIS AORTA BACK BLADDER BRAIN CEREBELLUM CERVIX CHEST CHESTABDOMEN "
    "CHESTABDPELVIS CSPINE CTSPINE COCCYX COLON DUODENUM WHOLEBODY FACE GALLBLADDER HEAD HEADNECK "
    "HEART ILEUM ILIUM JAW JEJUNUM LARYNX LIVER LSPINE LSSPINE MAXILLA MEDIASTINUM MOUTH NECK "
    "NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE PANCREAS PELVIS PENIS PHARYNX PROSTATE "
    "RECTUM SKULL SPINE SPLEEN SSPINE STERNUM STOMACH THYMUS THYROID TLSPINE TONGUE TRACHEA "
    "TSPINE URETER URETHRA UTERUS VAGINA SCALP".split()
)
"""Defined terms of BodyPartExamined without laterality."""

_PADDING = " \0"
_SEXES = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F", "O": "O", "OTHER": "O"}
_NAME_GROUPS, _NAME_PARTS, _NAME_CHARACTERS = 3, 5, 64
_NUMBER_CHARACTERS = 16


def copy_legal(header: pydicom.Dataset, target: pydicom.Dataset) -> None:
    """Copy the patient and study attributes.

    Args:
        header: header from `read_container`, with text in UTF-8.
        target: dataset that receives `COPIED` and the character set.
    """
    target.SpecificCharacterSet = UTF_8
    for name in COPIED:
        value = _legal(name, stored_text(header, name))
        if value or name in EMPTY_OR_LEGAL:
            setattr(target, name, value)


def stored_text(header: pydicom.Dataset, name: str) -> str:
    """Return the stored text of an element without padding; empty if it is absent or unreadable.

    pydicom's own conversion is avoided, because it can raise any exception.
    """
    element = header.get_item(Tag(name))
    value = None if element is None else element.value
    if isinstance(element, RawDataElement):
        try:
            return (value or b"").decode().strip(_PADDING)
        except UnicodeDecodeError:
            return ""
    return "" if value is None else str(value).strip(_PADDING)


def _legal(name: str, text: str) -> str:
    """Return a legal value, or an empty string."""
    if any(unicodedata.category(character) == "Cc" for character in text) or "\\" in text:
        return ""
    kind = "sex" if name == "PatientSex" else dictionary_VR(Tag(name))
    return _KINDS[kind](text)


def _date(text: str) -> str:
    parts = re.fullmatch(r"([12]\d{3})([-./]?)(\d{2})\2(\d{2})", text)
    if parts is None:
        return ""
    year, _, month, day = parts.groups()
    try:
        date(int(year), int(month), int(day))
    except ValueError:
        return ""
    return year + month + day


def _time(text: str) -> str:
    parts = re.fullmatch(r"(\d\d)(?:(:?)(\d\d)(?:\2(\d\d)(\.\d{1,6})?\d*)?)?", text)
    if parts is None:
        return ""
    hour, _, minute, second, fraction = (part or "" for part in parts.groups())
    if int(hour) > 23 or int(minute or 0) > 59 or int(second or 0) > 60:
        return ""
    return (
        hour + minute + second.replace("60", "59") + fraction
    )  # many readers do not accept a leap second


def _age(text: str) -> str:
    parts = re.fullmatch(r"0*(\d{1,3})([DWMY])", text.upper())
    return "" if parts is None else f"{int(parts[1]):03d}{parts[2]}"


def _name(text: str) -> str:
    groups = text.split("=")
    if len(groups) > _NAME_GROUPS or any(
        len(group) > _NAME_CHARACTERS or group.count("^") >= _NAME_PARTS for group in groups
    ):
        return ""
    return text


def _number(text: str) -> str:
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        return ""
    if not math.isfinite(number) or number < 0:
        return ""
    short = re.fullmatch(r"[+]?\d*\.?\d+([eE][-+]?\d+)?|\d+\.", text) is not None
    return text if short and len(text) <= _NUMBER_CHARACTERS else format_number_as_ds(number)


def _code(text: str) -> str:
    return text.upper() if re.fullmatch(r"[A-Z0-9_ ]{1,16}", text.upper()) else ""


def _at_most(characters: int) -> Callable[[str], str]:
    return lambda text: text if len(text) <= characters else ""


_KINDS: dict[str, Callable[[str], str]] = {
    "AS": _age,
    "CS": _code,
    "DA": _date,
    "DS": _number,
    "LO": _at_most(64),
    "PN": _name,
    "SH": _at_most(16),
    "TM": _time,
    "sex": lambda text: _SEXES.get(text.upper(), ""),
}
"""Functions that return a legal value, by value representation."""
