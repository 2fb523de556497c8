"""ClinReadNet: no-reference quality scores for low-dose abdominal CT, and verified engines.

Importing this package is cheap and pulls in no torch; the names below load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from clinreadnet.model import ClinReadNet, ClinReadNetConfig
    from clinreadnet.runtime import Session
    from clinreadnet.weights import load_pretrained

__all__ = ["ClinReadNet", "ClinReadNetConfig", "Session", "load_pretrained"]

_HOMES = {
    "ClinReadNet": "clinreadnet.model",
    "ClinReadNetConfig": "clinreadnet.model",
    "Session": "clinreadnet.runtime",
    "load_pretrained": "clinreadnet.weights",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
