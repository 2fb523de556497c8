"""Unusual headers of real archives, and the values that our objects must have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import generate_uid
from support.dicom_files import make_ct, noise, write, write_enhanced_ct
from support.raw_elements import store

from archives.case import Case

Tags = Mapping[str, bytes | Callable[[int], bytes]]
"""Stored bytes by keyword, or a function of the number of the slice."""


@dataclass(frozen=True)
class Header(Case):
    """A series whose headers are odd.

    Attributes:
        report: values of the report; None for an attribute that it must not have.
        maps: names of the files of its maps.
        no_map: reason why it gets no map.
    """

    report: Mapping[str, str | None] = field(default_factory=dict)
    maps: tuple[str, ...] = ("map-1.dcm",)
    no_map: str = ""


def series(tags: Tags, *, slices: int = 2, **given: Any) -> Callable[[Path], None]:
    """Return a function that writes a series with some stored bytes in its headers."""

    def build(folder: Path) -> None:
        uid = generate_uid()
        for index in range(slices):
            place = {"ImagePositionPatient": [-180, -180, 2.5 * index], "InstanceNumber": index + 1}
            ds = make_ct(noise(index), **{"SeriesInstanceUID": uid, **place, **given})
            ds.PatientID, ds.PatientName = "P1", "Doe^Jane"
            for name, value in tags.items():
                store(ds, name, value if isinstance(value, bytes) else value(index))
            write(folder / f"s{index}.dcm", ds)

    return build


def names(declared: bytes, name: bytes, **more: bytes) -> Callable[[Path], None]:
    """Return a function that writes a series with a character set and a name in it."""
    return series({"SpecificCharacterSet": declared, "PatientName": name, **more})


def named(case: str, declared: bytes, stored: bytes, name: str, source: str = "") -> Header:
    """Return a case whose report has the patient's name, however it is stored."""
    return Header(case, names(declared, stored), source, report={"PatientName": name})


def _phases(count: int, named: bool) -> Callable[[Path], None]:
    """Return a function that writes slices at two positions, ``count`` times."""

    def build(folder: Path) -> None:
        uid = generate_uid()
        for phase in range(count):
            for index in range(2):
                ds = make_ct(
                    noise(index) + np.int16(20 * phase),
                    SeriesInstanceUID=uid,
                    ImagePositionPatient=[-180, -180, 2.5 * index],
                    InstanceNumber=1 + index + 2 * (count - phase if named else phase),
                )
                if named:
                    ds.AcquisitionNumber = phase + 1
                write(folder / f"p{phase}-{index}.dcm", ds)

    return build


def _frames_at_one_position(folder: Path) -> None:
    frames = np.stack([noise(index) for index in range(3)])
    write(
        folder / "frames.dcm", make_ct(frames, NumberOfFrames=3, SeriesInstanceUID=generate_uid())
    )


def _enhanced_at_one_position(folder: Path) -> None:
    ds = pydicom.dcmread(write_enhanced_ct(folder / "e.dcm", 3))
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.PlanePositionSequence = ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    for group in ds.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
    ds.SeriesInstanceUID = generate_uid()
    write(folder / "e.dcm", ds)


def _two_enhanced_files(folder: Path) -> None:
    uid = generate_uid()
    for number in range(2):
        path = write_enhanced_ct(folder / f"e{number}.dcm", 2)
        ds = pydicom.dcmread(path)
        ds.SeriesInstanceUID = uid
        for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
            group.PlanePositionSequence[0].ImagePositionPatient = [-180, -180, 10 * number + index]
        write(path, ds)


_LAST_DIGIT = (b"1\\0\\0\\0\\1\\0", b"1\\0\\0.0000001\\0\\1\\0")
_JANE = "Yamada^Tarou=山田^太郎=やまだ^たろう"

CASES = (
    Header(
        "odd-patient",
        series(
            {
                "PatientSex": b"U",
                "PatientAge": b"42",
                "PatientBirthDate": b"19450000",
                "StudyDate": b"20230230",
                "StudyTime": b"12:30:15",
            }
        ),
        report={
            "PatientSex": "",
            "PatientAge": None,
            "PatientBirthDate": "",
            "StudyDate": "",
            "StudyTime": "123015",
        },
    ),
    Header(
        "sex-in-words-and-hour-24",
        series({"PatientSex": b"male", "StudyTime": b"240000", "PatientBirthDate": b"1945"}),
        report={"PatientSex": "M", "StudyTime": "", "PatientBirthDate": ""},
    ),
    Header(
        "one-word-in-every-attribute",
        series(
            dict.fromkeys(
                (
                    *("PatientSex", "PatientAge", "PatientBirthDate", "PatientID"),
                    *("StudyDescription", "PatientWeight"),
                ),
                b"Amadeus",
            )
        ),
        "moloney/dcmstack#63",
        report={
            "PatientSex": "",
            "PatientAge": None,
            "PatientBirthDate": "",
            "PatientID": "Amadeus",
            "StudyDescription": "Amadeus",
            "PatientWeight": None,
        },
    ),
    Header(
        "month-0",
        series({"StudyDate": b"20150001", "PatientBirthDate": b"20150100"}),
        "cornerstonejs/dicomParser#22",
        report={"StudyDate": "", "PatientBirthDate": ""},
    ),
    Header(
        "dates-before-dicom",
        series({"StudyDate": b"2001.03.12", "StudyTime": b"12:30:15.25"}),
        "blairconrad/dicognito#180",
        report={"StudyDate": "20010312", "StudyTime": "123015.25"},
    ),
    Header(
        "decimal-comma",
        series({"PatientWeight": b"70,5", "PatientSize": b"1,80"}),
        "fo-dicom/fo-dicom#1915",
        report={"PatientWeight": "70.5", "PatientSize": "1.8"},
    ),
    Header(
        "number-of-too-many-digits",
        series({"PatientWeight": b"70.12345678901234567"}),
        "pydicom/pydicom#1632",
        report={"PatientWeight": "70.1234567890124"},
    ),
    Header(
        "over-long-identifiers",
        series(
            {
                "PatientID": b"7" * 65,
                "AccessionNumber": b"8" * 17,
                "StudyID": b"9" * 17,
                "IssuerOfPatientID": b"i" * 65,
                "PatientName": b"n" * 65,
            }
        ),
        report={
            "PatientID": "",
            "AccessionNumber": "",
            "StudyID": "",
            "IssuerOfPatientID": None,
            "PatientName": "",
        },
    ),
    Header(
        "name-without-caret",
        series({"PatientName": b"TESTPATIENT"}),
        "ImagingDataCommons/highdicom#154",
        report={"PatientName": "TESTPATIENT"},
    ),
    Header(
        "charset-ir87",
        names(
            b"\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            StudyDescription=b'\x1b$BJ"It\x1b(B',
        ),
        "fo-dicom/fo-dicom#1785",
        report={"PatientName": _JANE, "StudyDescription": "腹部"},
    ),
    Header(
        "charset-ir6-and-ir87",
        names(b"ISO 2022 IR 6\\ISO 2022 IR 87", b"Hitachi^A=\x1b$B;3ED\x1b(B"),
        "pydicom/pydicom#279",
        report={"PatientName": "Hitachi^A=山田"},
    ),
    Header(
        "charset-ir149",
        names(
            b"\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^"
            b"\x1b$)C\xb1\xe6\xb5\xbf",
        ),
        report={"PatientName": "Hong^Gildong=洪^吉洞=홍^길동"},
    ),
    named(
        "charset-written-wrong",
        b"ISO IR 192",
        "王^小明".encode(),
        "王^小明",
        "pydicom/pynetdicom#201",
    ),
    named("charset-by-its-common-name", b"UTF-8", "Müller^Jörg".encode(), "Müller^Jörg"),
    named("charset-ascii-by-name", b"ISO_IR 6", b"Doe^Jane", "Doe^Jane", "suyashkumar/dicom#60"),
    named("charset-empty", b"", "Müller^Jörg".encode(), "Müller^Jörg", "pydicom/pynetdicom#451"),
    named("charset-not-supplied", b"Not Supplied", b"Doe^Jane", "Doe^Jane", "pydicom/pydicom#815"),
    Header(
        "charset-not-declared",
        names(b"", b"M\xfcller^J\xf6rg"),
        "ClearCanvas/ClearCanvas#132",
        report={"PatientName": "", "PatientID": "P1"},
    ),
    named(
        "charset-of-a-codec-alone",
        b"CP1251",
        "Иванов^Иван".encode("cp1251"),
        "Иванов^Иван",
        "pydicom/pydicom#2115",
    ),
    named(
        "backslash-in-a-character",
        b"GB18030",
        "俓^東".encode("gb18030"),
        "俓^東",
        "pydicom/pydicom#1724",
    ),
    Header(
        "place-and-number-damaged",
        series(
            {
                "InstanceNumber": b"1A",
                "SeriesNumber": b"one",
                "SliceLocation": b"here",
                "PixelSpacing": b"0.586,0.195",
            }
        ),
        "pydicom/pydicom#173",
        maps=(),
        no_map="no PixelSpacing that is valid",
    ),
    Header(
        "orientations-alike-but-for-a-digit",
        series({"ImageOrientationPatient": lambda index: _LAST_DIGIT[index]}),
        "ImagingDataCommons/highdicom#405",
    ),
    Header(
        "frame-of-reference-of-each-slice",
        series({"FrameOfReferenceUID": lambda index: b"1.2.3.%d" % index}),
        maps=(),
        no_map="frame of reference is not that of",
    ),
    Header(
        "three-phases",
        _phases(3, named=False),
        "Project-MONAI/monai-deploy-app-sdk#532",
        maps=("map-1-1.dcm", "map-1-2.dcm", "map-1-3.dcm"),
    ),
    Header(
        "phases-named-against-their-order",
        _phases(2, named=True),
        "ImagingDataCommons/highdicom#369",
        maps=("map-1-1.dcm", "map-1-2.dcm"),
    ),
    Header(
        "frames-of-one-position",
        _frames_at_one_position,
        "icometrix/dicom2nifti#127",
        maps=(),
        no_map="its frames share one position",
    ),
    Header(
        "perfusion-at-one-position",
        _enhanced_at_one_position,
        maps=(),
        no_map="its frames share one position",
    ),
    Header("two-multi-frame-files", _two_enhanced_files, "QIICR/dcmqi#558"),
)
