"""Read the body part from a DICOM header: a hint, not proof.

Headers describe the protocol, not the slice. For example, BodyPartExamined is CHEST in abdominal
slices of a lung trial. A body part is therefore used only if all fields that name one agree, and it
never marks a slice alone. The measured quantity is reliable: a perfusion map states it in its image
type, and its values are not Hounsfield units.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from clinreadnet.data.acquisition import Value, without_damage

REGION_TAGS = (
    "BodyPartExamined",
    "ProtocolName",
    "SeriesDescription",
    "StudyDescription",
    "RescaleType",
    "ImageType",
)

_LONGEST = 256  # characters of a field that are searched
# A value that covers several parts, such as a whole-body scan, names none.
_PARTS = {
    "abdomen": (
        "ABD ABDOMEN ABDOMINAL PELVIS PELVIC PEL LIVER HEPAR KIDNEY RENAL PANCREAS UROGRAPHY KUB "
        "COLON COLONOGRAPHY COLONOSCOPY ENTEROGRAPHY ADRENAL BOWEL SPLEEN TAP CAP LUMBAR LSPINE"
    ),
    "whole body": "WB WHOLEBODY WHOLE PET PETCT BODY TRAUMA POLYTRAUMA SPINE AORTA",
    "head": (
        "HEAD BRAIN SKULL ORBIT ORBITS SINUS SINUSES IAC FACE FACIAL MAXILLOFACIAL NEURO CRANIUM "
        "CRANIAL CEREBRAL TEMPORAL MANDIBLE JAW EAR EYE"
    ),
    "neck": "NECK CSPINE CERVICAL CAROTID LARYNX THYROID",
    "chest": "CHEST LUNG LUNGS THORAX THORACIC HEART CARDIAC CORONARY CARDIO",
    "limb": (
        "KNEE ANKLE FOOT HAND WRIST ELBOW SHOULDER ARM LEG LEGS THIGH EXTREMITY FEMUR TIBIA "
        "HUMERUS CALF FINGER TOE"
    ),
    "phantom": "PHANTOM",
}
_POSITION = re.compile(r"\b(HEAD|FEET)[ _-]*FIRST\b")
_PART_OF = {word: part for part, words in _PARTS.items() for word in words.split()}
_MAPS = ("PERFUSION", "CBF", "RCBF", "CBV", "RCBV", "MTT", "TTP", "TMAX", "IODINE", "Z_EFF")
_UNITS = ("HU", "US", "")  # US: not specified, as many scanners write


@dataclass(frozen=True)
class Hint:
    """Body part and quantity that a header states.

    Attributes:
        part: head, neck, chest, limb or phantom; empty for an abdomen, several parts or none.
        field: first header field that names it.
        quantity: measured quantity if it is not Hounsfield units; otherwise empty.
        trunk: whether the header names a part of the trunk, and no other part.
    """

    part: str = ""
    field: str = ""
    quantity: str = ""
    trunk: bool = False

    def __str__(self) -> str:
        """Return the hint as text; empty if there is none."""
        if self.quantity:
            return f"{self.quantity} by its header"
        return f"{self.part} by its header ({self.field})" if self.part else ""


def read_hint(value: Value) -> Hint:
    """Read the body part and the quantity of a slice or frame from its header.

    Args:
        value: function that returns a header value by sequence and name; may raise on a damaged
            value.
    """
    value = without_damage(value)
    image_type = _words(value, "", "ImageType") | _words(
        value, "CTImageFrameTypeSequence", "FrameType"
    )
    maps = sorted(image_type.intersection(_MAPS))
    units = _text(value, "PixelValueTransformationSequence", "RescaleType").strip()
    if maps:
        return Hint(field="ImageType", quantity=f"a {maps[0].lower()} map")
    if units not in _UNITS:
        return Hint(field="RescaleType", quantity="a map of other units than HU")
    named: dict[str, str] = {}
    for field in REGION_TAGS[:4]:
        for word in _words(value, "", field):
            if word in _PART_OF:
                named.setdefault(_PART_OF[word], field)
    trunk = bool(named) and named.keys() <= {"abdomen", "chest"}
    if len(named) != 1 or named.keys() & {"abdomen", "whole body"}:
        return Hint(trunk=trunk)
    ((part, field),) = named.items()
    return Hint(part, field, trunk=trunk)


def _words(value: Value, sequence: str, name: str) -> set[str]:
    """Return the words of a field in upper case, split at CamelCase and digits."""
    text = _text(value, sequence, name)
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    shown = _POSITION.sub(" ", apart.upper())
    return set(re.findall(r"[A-Z_]+", shown)) | set(re.findall(r"[A-Z]+", shown))


def _text(value: Value, sequence: str, name: str) -> str:
    text = value(sequence, name)
    if text is None:
        return ""
    parts = [text] if isinstance(text, str) or not isinstance(text, Sequence) else text
    return " ".join(str(part) for part in parts)[:_LONGEST]
