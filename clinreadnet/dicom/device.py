"""Attributes of the software and the device, which every object contains."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Mapping
from typing import Any

import pydicom
from pydicom.uid import UID, generate_uid

from clinreadnet._version import __version__
from clinreadnet.data.character_sets import UTF_8

MANUFACTURER = "ClinReadNet"
MODEL = "clinreadnet"
DESCRIPTION = "Image quality, research use only"
"""SeriesDescription of every object."""

SERIES_NUMBERS = {"report": 9901, "map": 9902, "capture": 9903}


def new_uid() -> UID:
    """Return a new UID with root 2.25, which needs no registration."""
    return generate_uid(prefix=None)


def device_uid() -> UID:
    """Return the UID of this machine, derived from its host name."""
    name = f"clinreadnet/device/{platform.node()}"
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}")


def parameters(session: Mapping[str, Any]) -> list[str]:
    """Return lines of text that identify the network and the backend, from `Session.describe`."""
    reason = f" ({session['verdict_reason']})" if session["verdict_reason"] else ""
    return [
        f"weights SHA-256: {session['weights_sha256']}",
        f"preset: {session['preset']}",
        f"artifact: {session['artifact']}",
        f"precision: {session['precision']}",
        f"backend: {session['backend']}",
        f"verdict: {session['verdict']}{reason}",
        f"bundle verified: {'yes' if session['verified'] else 'no'}",
    ]


def describe(made: pydicom.Dataset) -> None:
    """Add manufacturer, software version, intended use and character set to an object."""
    made.SpecificCharacterSet = UTF_8
    made.SeriesDescription = DESCRIPTION
    made.ManufacturerModelName = MODEL
    made.SoftwareVersions = __version__
