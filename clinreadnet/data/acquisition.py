"""How a CT slice was acquired: dose, tube voltage, reconstruction, scanner and protocol.

Makers do not agree on Exposure (0018,1152). Some write tube current x time of a rotation, some
divide it by the pitch (effective mAs), some give the whole scan, a part of a rotation, uAs or 0.
So it is compared with tube current x time of the same header, which replaces a value that no pitch
explains.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from clinreadnet.errors import counted, visible

_LONGEST_TEXT = 64  # characters, as DICOM's LO allows

CHECKED, UNCHECKED = "header", "header, not checked"
COMPUTED, CORRECTED, LEFT_OUT = "computed", "corrected", "left out"
EXPOSURE_SOURCES = {
    CHECKED: "the header's value, which tube current x time confirms within a pitch",
    UNCHECKED: "the header's value; tube current or time is not stated",
    COMPUTED: "tube current x time; the header states no exposure",
    CORRECTED: "tube current x time; the header's exposure contradicts it",
    LEFT_OUT: "missing; the header's value is not a possible exposure in mAs",
}
"""Where an exposure comes from, and what that means."""

_NO_DEVICE = frozenset(
    "anonymized anonymised anonymous anon deidentified removed unknown none null n/a".split()
)
_PHANTOMS = {"113690": 16.0, "113691": 32.0}  # IEC Head and Body Dosimetry Phantom
_EXPOSURES = (1.0, 2000.0)  # mAs of a rotation
_LONGEST_ROTATION = 4.0  # s; a longer ExposureTime is that of the whole scan
_PITCHES = (0.2, 3.5)  # from gated to dual-source scans
_ROUNDED = (0.7, 1.4)  # of the exposure of a rotation, or of it over the pitch

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
    "DeviceSerialNumber",
    "StationName",
    "ProtocolName",
    "KVP",
    "Exposure",
    "ExposureInuAs",
    "ExposureInmAs",
    "XRayTubeCurrent",
    "XRayTubeCurrentInuA",
    "XRayTubeCurrentInmA",
    "ExposureTime",
    "ExposureTimeInuS",
    "ExposureTimeInms",
    "RevolutionTime",
    "SpiralPitchFactor",
    "CTDIvol",
    "CTDIPhantomTypeCodeSequence",
    "ConvolutionKernel",
    "SliceThickness",
)


@dataclass(frozen=True)
class Acquisition:
    """Acquisition parameters of one slice. A value that the header lacks is None.

    Attributes:
        ctdi_vol_mgy: CTDIvol in mGy.
        exposure_mas: mAs of a rotation, with or without a division by the pitch.
        kvp: peak tube voltage, kV.
        kernel: ConvolutionKernel; several values are joined with a backslash.
        thickness_mm: SliceThickness in mm.
        scanner: Manufacturer and ManufacturerModelName.
        protocol: ProtocolName.
        acquired: date of the acquisition, else of the series or study, as 2026-01-31.
        exposure_source: one of ``EXPOSURE_SOURCES``; None without any exposure.
        device: tells scanners of one model apart: 8 hexadecimal digits of the SHA-256 of
            DeviceSerialNumber, else of StationName.
        ctdi_phantom_cm: diameter of the dosimetry phantom that CTDIvol refers to, 16 or 32.
        tube_current_ma: XRayTubeCurrent in mA.
    """

    ctdi_vol_mgy: float | None = None
    exposure_mas: float | None = None
    kvp: float | None = None
    kernel: str | None = None
    thickness_mm: float | None = None
    scanner: str | None = None
    protocol: str | None = None
    acquired: str | None = None
    exposure_source: str | None = None
    device: str | None = None
    ctdi_phantom_cm: float | None = None
    tube_current_ma: float | None = None


def read_acquisition(value: Value) -> Acquisition:
    """Return the acquisition of one slice or frame.

    Numbers that are negative or not finite, and values that cannot be read, count as missing: none
    of them is needed for a score. Texts are cut after 64 characters.

    Args:
        value: function that returns a header value by sequence and name; may raise on a damaged
            value.
    """
    value = without_damage(value)
    currents = _currents(value)
    exposure, source = _exposure(value, currents)
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
        exposure_source=source,
        device=_device(value),
        ctdi_phantom_cm=_phantom(value("CTExposureSequence", "CTDIPhantomTypeCodeSequence")),
        tube_current_ma=next((current for current in currents if current), None),
    )


def _phantom(sequence: Any) -> float | None:
    """Return the diameter in cm of the phantom that a code sequence names."""
    for item in sequence or []:
        if str(item.get("CodingSchemeDesignator", "")).strip() == "DCM":
            return _PHANTOMS.get(str(item.get("CodeValue", "")).strip())
    return None


def _currents(value: Value) -> list[float]:
    """Return the tube currents in mA that a header states."""
    places = (("CTExposureSequence", "XRayTubeCurrentInmA", 1), ("", "XRayTubeCurrentInuA", 1e-3))
    return _scaled(value, *places, ("", "XRayTubeCurrent", 1))


def _exposure(value: Value, currents: Sequence[float]) -> tuple[float | None, str | None]:
    """Return the exposure in mAs, and where it comes from."""
    group = "CTExposureSequence"
    stated = _scaled(value, (group, "ExposureInmAs", 1), ("", "ExposureInuAs", 1e-3))
    stated += _scaled(value, ("", "Exposure", 1))
    times = _scaled(value, (group, "ExposureTimeInms", 1e-3), ("", "ExposureTimeInuS", 1e-6))
    times += _scaled(value, ("", "ExposureTime", 1e-3))
    times += _scaled(value, ("CTAcquisitionDetailsSequence", "RevolutionTime", 1))
    times = [time for time in times if time <= _LONGEST_ROTATION]
    possible, products = (
        [mas for mas in values if _EXPOSURES[0] <= mas <= _EXPOSURES[1]]
        for values in (stated, [current * time for current in currents[:1] for time in times])
    )
    if not products:
        if possible:
            return possible[0], UNCHECKED
        return None, LEFT_OUT if stated else None
    pitch = _number(value("CTTableDynamicsSequence", "SpiralPitchFactor"))
    slow, fast = _PITCHES
    if pitch is not None and slow <= pitch <= fast:
        slow = fast = pitch
    low, high = _ROUNDED[0] * min(1, 1 / fast), _ROUNDED[1] * max(1, 1 / slow)
    for product in products:
        for mas in stated:
            if low * product <= mas <= high * product:
                return mas, CHECKED
    return round(products[0], 3), CORRECTED if any(stated) else COMPUTED


def _scaled(value: Value, *places: tuple[str, str, float]) -> list[float]:
    """Return the numbers that are stated at places (sequence, name, factor), times the factor."""
    numbers = [(_number(value(group, name)), factor) for group, name, factor in places]
    return [number * factor for number, factor in numbers if number is not None]


def exposure_lines(acquisitions: Sequence[Acquisition]) -> list[str]:
    """Return lines of text on exposures that are not those of the headers."""
    sources = Counter(acquisition.exposure_source for acquisition in acquisitions)
    return [
        f"Exposure (mAs) of {counted(sources[source], 'slice', len(acquisitions))} is "
        f"{EXPOSURE_SOURCES[source]}."
        for source in (COMPUTED, CORRECTED, LEFT_OUT)
        if sources[source]
    ]


def without_damage(value: Value) -> Value:
    """Wrap a reader of header values so that it returns None for a damaged value."""

    def readable(sequence: str, name: str) -> Any:
        try:
            return value(sequence, name)
        except Exception:  # pydicom raises many types on damaged values
            return None

    return readable


def finite_number(value: Any) -> float | None:
    """Return a header value as a number; None if it is not a finite one."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _number(value: Any) -> float | None:
    number = finite_number(value)
    return number if number is not None and number >= 0 else None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    parts = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
    text = "\\".join(str(part) for part in parts).strip()[:_LONGEST_TEXT].strip()
    return visible(text) or None


def _device(value: Value) -> str | None:
    """Return a hash: both values name a hospital's machine, and de-identification removes them."""
    for name in ("DeviceSerialNumber", "StationName"):
        text = (_text(value("", name)) or "").casefold()
        letters = [letter for letter in text if letter.isalnum()]
        if len(set(letters)) > 1 and text not in _NO_DEVICE:
            return hashlib.sha256(text.encode()).hexdigest()[:8]
    return None


def _date(value: Value) -> str | None:
    for name in ("AcquisitionDate", "AcquisitionDateTime", "SeriesDate", "StudyDate"):
        match = re.match(r"(\d{4})(\d{2})(\d{2})", str(value("", name) or ""))
        try:
            if match:
                return date(*map(int, match.groups())).isoformat()
        except ValueError:
            continue
    return None
