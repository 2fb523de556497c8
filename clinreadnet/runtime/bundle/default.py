"""Which bundle is taken where none is named."""

from __future__ import annotations

import os
from pathlib import Path

BUNDLE_VARIABLE = "CLINREADNET_BUNDLE"
"""Environment variable that names the default bundle."""


def default_bundle() -> Path:
    """Return the bundle named by ``CLINREADNET_BUNDLE``, else ``bundle`` in the current folder."""
    return Path(os.environ.get(BUNDLE_VARIABLE) or "bundle")
