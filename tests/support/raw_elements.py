"""Stored bytes in a data set: pydicom neither converts nor checks them."""

from __future__ import annotations

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.tag import Tag


def store(ds: Dataset, name: str, value: bytes, kind: str | None = None) -> None:
    """Put bytes into a data set, padded to an even length.

    Args:
        ds: data set that is changed.
        name: keyword.
        value: stored bytes.
        kind: value representation; None for that of the standard.
    """
    tag = Tag(name)
    kind = kind or dictionary_VR(tag)
    value += (b"\0" if kind in ("UI", "OB", "UN") else b" ") * (len(value) % 2)
    if not hasattr(ds, "keeps_bytes"):
        correct_ambiguous_vr(ds, True)
        ds.__class__ = type("AsItIs", (type(ds),), _AS_IT_IS)
    ds._dict[tag] = RawDataElement(tag, kind, len(value), value, 0, False, True)


_AS_IT_IS = {
    "keeps_bytes": True,
    # As if it had been read from such a file: pydicom converts nothing then.
    "original_encoding": (False, True),
    "original_character_set": "utf8",
    "_character_set": "utf8",
}
