"""Decode the text values of a DICOM header and convert them to UTF-8.

A misspelt character set with a clear meaning (``ISO-IR 192``, ``UTF-8``) is corrected. If a value
is not valid in the declared sets, UTF-8 is tried, then the set that was declared second. A value
that cannot be decoded is dropped: a wrong name is worse than none.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

import pydicom
from pydicom.charset import CODES_TO_ENCODINGS, python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag

UTF_8 = "ISO_IR 192"
"""Defined term of UTF-8."""

_ASCII = "ascii"
_CHARACTER_SET = Tag("SpecificCharacterSet")
_TEXTS = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_ESCAPE = 0x1B
_NO_SETS = ("idna", "punycode", "raw-unicode-escape", "unicode-escape", "utf-7")
"""Python codecs that are not character sets."""
# Sets that pydicom lacks, and sets that pydicom reads as Latin-1 although only ASCII is defined.
_CODECS = python_encoding | {
    **dict.fromkeys(("", "ISO_IR 6", "ISO 2022 IR 6"), _ASCII),
    **dict.fromkeys(("ISO_IR 203", "ISO 2022 IR 203"), "iso8859_15"),
}
_TWO_BYTES = {b"\x1b$B": b"\x1b$B", b"\x1b$@": b"\x1b$@", b"\x1b$(D": b"\x1b$(D"}
"""Escape sequences of two-byte sets below 0x80. Python's codecs need the sequence."""
_SEQUENCES = CODES_TO_ENCODINGS | {
    b"\x1b(B": _ASCII,
    b"\x1b(J": "shift_jis",
    b"\x1b-b": "iso8859_15",
    **dict.fromkeys(_TWO_BYTES, ""),
}
_ANY_SEQUENCE = re.compile(
    b"(" + b"|".join(map(re.escape, sorted(_SEQUENCES, key=len)[::-1])) + b")"
)


def to_utf8(header: pydicom.Dataset) -> None:
    """Convert the text values of a header to UTF-8 and update SpecificCharacterSet.

    Values inside sequences are not changed.

    Args:
        header: from pydicom, with raw elements.
    """
    declared = header.get_item(_CHARACTER_SET)
    value = b"" if declared is None else declared.value or b""
    sets = _known(value if isinstance(value, bytes) else str(value).encode())
    for tag in list(header.keys()):
        element = header.get_item(tag)
        if isinstance(element, RawDataElement) and _representation(element) in _TEXTS:
            text = decode(element.value or b"", sets)
            header[tag] = element._replace(value=(text or "").encode(), length=len(text or ""))
    if declared is not None:
        header[_CHARACTER_SET] = pydicom.DataElement(_CHARACTER_SET, "CS", UTF_8)
    header.set_original_encoding(*header.original_encoding, character_encoding=["utf8"])


def decode(value: bytes, sets: Sequence[str]) -> str | None:
    """Decode a text value; return None if its bytes are not valid in its character sets.

    Args:
        value: the bytes, with escape sequences if the sets are code extensions.
        sets: Python's names of the declared sets; at least one.
    """
    codes = [sets[0], "utf_8", *sets[1:]]
    if _ESCAPE not in value:
        return _first(value, codes)
    parts = _ANY_SEQUENCE.split(value)
    text = _first(parts[0], codes)
    if text is None:
        return None
    code, two_bytes = sets[0], b""
    for sequence, run in zip(parts[1::2], parts[2::2], strict=True):
        two_bytes = _TWO_BYTES.get(sequence, b"")
        # ASCII and the Roman letters of Japan stay in the lower half, beside the upper half's set.
        if not two_bytes and sequence not in (b"\x1b(B", b"\x1b(J"):
            code = _SEQUENCES[sequence]
        more = _two_bytes(sequence, run) if two_bytes else _first(run, [code, *codes])
        if more is None:
            return None
        text += more
    return text


def _two_bytes(sequence: bytes, run: bytes) -> str | None:
    """Decode a run of two-byte characters, including vendor extensions of the set."""
    text = _first(sequence + run, ["iso2022_jp_2"])
    if text is not None or len(run) % 2 or sequence == b"\x1b$(D":
        return text
    moved = bytearray()
    for high, low in zip(run[::2], run[1::2], strict=True):
        if not (0x21 <= high <= 0x7E and 0x21 <= low <= 0x7E):
            return None
        odd = high % 2
        moved.append((high + 1) // 2 + (0x70 if high < 0x5F else 0xB0))
        moved.append(low + (0x1F + (low >= 0x60) if odd else 0x7E))
    return _first(bytes(moved), ["cp932"])


def _first(value: bytes, names: Sequence[str]) -> str | None:
    """Decode a text with the first character set that is valid for all its bytes."""
    for name in names:
        try:
            return value.decode(name)
        except (LookupError, UnicodeDecodeError):
            continue
    return None


def _known(value: bytes) -> list[str]:
    """Return Python's names of the declared sets; ASCII if the first one is unknown."""
    terms = [term.strip(" \0") for term in value.decode("ascii", "replace").split("\\")]
    codecs = [_codec(term) for term in terms]
    return [codecs[0] or _ASCII, *(codec for codec in codecs[1:] if codec)]


def _codec(term: str) -> str | None:
    """Return Python's name of a character set; None if it is unknown."""
    if term in _CODECS:
        return _CODECS[term]
    number = re.fullmatch(r"(?:ISO[\W_]*)?(?:2022[\W_]*)?IR[\W_]*(\d+)", term.upper())
    if number is not None:
        return _CODECS.get(f"ISO_IR {number[1]}") or _CODECS.get(f"ISO 2022 IR {number[1]}")
    try:
        name = codecs.lookup(term).name
        extends_ascii = b"Az^=0".decode(name) == "Az^=0"
    except (LookupError, ValueError):  # ValueError: a name of other characters
        return None
    return name if extends_ascii and name not in _NO_SETS else None


def _representation(element: RawDataElement) -> str | None:
    if element.VR not in (None, "UN"):
        return element.VR
    try:
        return dictionary_VR(BaseTag(element.tag))
    except KeyError:
        return None
