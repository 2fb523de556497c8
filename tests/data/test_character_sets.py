"""Texts in every character set of the standard, with its examples (PS3.5, annexes H to K)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pydicom.charset import python_encoding
from support.dicom_files import make_ct, noise, write
from support.raw_elements import store

from clinreadnet.data.character_sets import decode, to_utf8
from clinreadnet.data.dicom_container import read_container
from clinreadnet.data.slices import find_slices

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's, of sets that it does not know

SINGLE_BYTE = {
    100: ("Müller^Jörg", "iso8859-1"),
    101: ("Dvořák^Šárka", "iso8859-2"),
    109: ("Ħanna^Ġorġ", "iso8859-3"),
    110: ("Āboliņš^Ģirts", "iso8859-4"),
    144: ("Люкceмбypг", "iso8859-5"),
    127: ("قباني^لنزار", "iso8859-6"),
    126: ("Διονυσιος", "iso8859-7"),
    138: ("שרון^דבורה", "iso8859-8"),
    148: ("Çavuşoğlu", "iso8859-9"),
    166: ("นามสกุล^ชื่อต้น", "tis-620"),
    203: ("Žižka^Œuvre€", "iso8859-15"),
}
HIRAGANA = b"\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"
STANDARD = {
    "japanese": (
        b"\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=" + HIRAGANA,
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    "japanese-half-width": (
        b"ISO 2022 IR 13\\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J="
        + HIRAGANA.replace(b"(B", b"(J"),
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    "japanese-supplementary": (b"\\ISO 2022 IR 159", b"A^B=\x1b$(D0!\x1b(B", "A^B=丂"),
    "japanese-of-a-maker": (b"\\ISO 2022 IR 87", b"\x1b$B|bED\x1b(B", "髙田"),
    "korean": (
        b"\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^"
        b"\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    "korean-without-sequences": (b"\\ISO 2022 IR 149", b"Hong=\xfb\xf3", "Hong=洪"),
    "chinese": (
        b"\\ISO 2022 IR 58",
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        "Zhang^XiaoDong=张^小东=",
    ),
    "chinese-gb18030": (
        b"GB18030",
        b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab=",
        "Wang^XiaoDong=王^小东=",
    ),
    "chinese-gbk": (b"GBK", b"\x82\x5c", "俓"),
    "utf-8": (b"ISO_IR 192", "Wang^XiaoDong=王^小東=".encode(), "Wang^XiaoDong=王^小東="),
    "two-alphabets": (
        b"ISO 2022 IR 100\\ISO 2022 IR 126",
        b"M\xfcller=\x1b-F\xc4\xe9\xef",
        "Müller=Διο",
    ),
}


def read(tmp_path: Path, declared: bytes | None, text: bytes, name: str = "PatientName") -> str:
    ds = make_ct(noise(0, (64, 64)))
    store(ds, name, text)
    if declared is not None:
        store(ds, "SpecificCharacterSet", declared)
    header = read_container(write(tmp_path / "a.dcm", ds), [name]).header
    return str(header[name].value)


@pytest.mark.parametrize("extended", [False, True], ids=["alone", "code-extensions"])
@pytest.mark.parametrize("number", SINGLE_BYTE)
def test_single_byte_sets(tmp_path: Path, number: int, extended: bool) -> None:
    text, codec = SINGLE_BYTE[number]
    term = f"ISO 2022 IR {number}" if extended else f"ISO_IR {number}"
    assert read(tmp_path, term.encode(), text.encode(codec)) == text


@pytest.mark.parametrize("name", STANDARD)
def test_sets_of_several_bytes_and_code_extensions(tmp_path: Path, name: str) -> None:
    declared, stored, text = STANDARD[name]
    assert read(tmp_path, declared, stored) == text.rstrip("=")  # pydicom's name has no empty end
    assert read(tmp_path, declared, stored, "StudyDescription") == text


@pytest.mark.parametrize(
    "declared",
    [
        *(b"ISO-IR 192", b"ISO IR 192", b"ISO_IR192", b"iso_ir 192", b"UTF-8", b"utf8", b"UTF_8"),
        *(None, b"", b"ISO_IR 6", b"Not Supplied", b"ISO_IR 999", b"\xff", b"hex", b"idna"),
        *(b"ISO_IR 192\\ISO_IR 100", b"\\", b"utf_16"),
    ],
)
def test_utf_8_is_read_under_any_name_that_says_no_other(
    tmp_path: Path, declared: bytes | None
) -> None:
    assert read(tmp_path, declared, "王^小明".encode()) == "王^小明"


def test_bytes_that_no_set_defines_are_dropped(tmp_path: Path) -> None:
    for declared in (None, b"", b"ISO_IR 192", b"ISO_IR 999", b"\\ISO 2022 IR 87"):
        assert read(tmp_path, declared, b"M\xfcller^J\xf6rg") == ""


def test_a_protocol_is_read_in_its_set(tmp_path: Path) -> None:
    ds = make_ct(noise())
    store(ds, "SpecificCharacterSet", b"\\ISO 2022 IR 87")
    store(ds, "ProtocolName", b'\x1b$BJ"It\x1b(B')
    (ref,) = find_slices([write(tmp_path / "a.dcm", ds)])
    assert ref.acquisition.protocol == "腹部"


def test_random_bytes_raise_nothing() -> None:
    draw = random.Random(0)
    codecs = sorted(set(python_encoding.values()))
    pieces = [b"\x1b", b"\x1b$B", b"\x1b(B", b"\x1b$)C", b"\x1b-F", b"^", b"=", b"\\", b"\x80\xff"]
    for _ in range(3000):
        value = b"".join(
            draw.choice([*pieces, draw.randbytes(draw.randint(0, 5))]) for _ in range(6)
        )
        text = decode(value, draw.choices(codecs, k=draw.randint(1, 3)))
        assert text is None or text.encode("utf-8") is not None  # no half of a character


def test_a_header_without_texts_stays_as_it_is() -> None:
    ds = make_ct(noise(0, (64, 64)))
    before = str(ds)
    to_utf8(ds)
    assert str(ds) == before
