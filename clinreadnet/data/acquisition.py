"""How a CT slice was acquired: dose, tube voltage, reconstruction, scanner and protocol."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clinreadnet.errors import visible

_LONGEST_TEXT = 64  # characters, as DICOM's LO allows

Value = Callable[[str, str], Any]
"""Returns a header value: (sequence of a functional group, name) -> value, or None."""

# At the top level of CT Image Storage, and in the functional groups of Enhanced CT.
ACQUISITION_TAGS: tuple[str, ...] = (
    "AcquisitionDate",
    "AcquisitionDateTime",
    "SeriesDate",
    "StudyDate",
    "Manufacturer",
    "ManufacturerModelName",
    "ProtocolName",
    "KVP",
    "Exposure",
    "ExposureInuAs",
    "ExposureInmAs",
    "CTDIvol",
    "ConvolutionKernel",
    "SliceThickness",
)


@dataclass(frozen=True)
class Acquisition:
    """Acquisition parameters of one slice. A value that the header lacks is None.

    Attributes:
        ctdi_vol_mgy: CTDIvol in mGy.
        exposure_mas: tube current times time, mAs.
        kvp: peak tube voltage, kV.
        kernel: ConvolutionKernel; several values are joined with a backslash.
        thickness_mm: SliceThickness in mm.
        scanner: Manufacturer and ManufacturerModelName.
        protocol: ProtocolName.
        acquired: date of the acquisition, else of the series or study, as 2026-01-31.
    """

    ctdi_vol_mgy: float | None = None
    exposure_mas: float | None = None
    kvp: float | None = None
    kernel: str | None = None
    thickness_mm: float | None = None
    scanner: str | None = None
    protocol: str | None = None
    acquired: str | None = None


def read_acquisition(value: Value) -> Acquisition:
    """Return the acquisition of one slice or frame.

    Numbers that are negative or not finite, and values that cannot be read, count as missing: none
    of them is needed for a score. Texts are cut after 64 characters.

    Args:
        value: function that returns a header value by sequence and name; may raise on a damaged
            value.
    """
    value = without_damage(value)
    exposure = _number(value("CTExposureSequence", "ExposureInmAs"))
    if exposure is None:
        exposure = _number(value("", "Exposure"))
    if exposure is None:
        micro = _number(value("", "ExposureInuAs"))
        exposure = None if micro is None else micro / 1000
    maker, model = (_text(value("", name)) for name in ("Manufacturer", "ManufacturerModelName"))
    if maker and model and model.lower().startswith(maker.lower()):
        maker = None
    return Acquisition(
        ctdi_vol_mgy=_number(value("CTExposureSequence", "CTDIvol")),
        exposure_mas=exposure,
        kvp=_number(value("CTXRayDetailsSequence", "KVP")),
        kernel=_text(value("CTReconstructionSequence", "ConvolutionKernel")),
        thickness_mm=_number(value("PixelMeasuresSequence", "SliceThickness")),
        scanner=" ".join(part for part in (maker, model) if part) or None,
        protocol=_text(value("", "ProtocolName")),
        acquired=_date(value),
    )


def without_damage(value: Value) -> Value:
    """Wrap a reader of header values so that it returns None for a damaged value."""

    def readable(sequence: str, name: str) -> Any:
        try:
            return value(sequence, name)
        except Exception:  # pydicom raises many types on damaged values
            return None

    return readable


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    parts = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
    text = "\\".join(str(part) for part in parts).strip()[:_LONGEST_TEXT].strip()
    return visible(text) or None


def _date(value: Value) -> str | None:
    for name in ("AcquisitionDate", "AcquisitionDateTime", "SeriesDate", "StudyDate"):
        match = re.match(r"(\d{4})(\d{2})(\d{2})", str(value("", name) or ""))
        if match and "01" <= match[2] <= "12" and "01" <= match[3] <= "31":
            return "-".join(match.groups())
    return None
