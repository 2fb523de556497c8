"""ClinReadNet: no-reference quality scores for low-dose abdominal CT, and verified engines.

Importing this package does not import torch. The names below are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clinreadnet._version import __version__ as __version__

if TYPE_CHECKING:
    from clinreadnet.model.checkpoint import load_pretrained
    from clinreadnet.model.network import ClinReadNet, ClinReadNetConfig
    from clinreadnet.runtime import Session

__all__ = ["ClinReadNet", "ClinReadNetConfig", "Session", "load_pretrained"]

_HOMES = {
    "ClinReadNet": "clinreadnet.model.network",
    "ClinReadNetConfig": "clinreadnet.model.network",
    "Session": "clinreadnet.runtime",
    "load_pretrained": "clinreadnet.model.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
