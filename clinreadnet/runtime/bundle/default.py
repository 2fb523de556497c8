"""Which bundle is taken where none is named."""

from __future__ import annotations

import os
from pathlib import Path

from clinreadnet.errors import InputError

BUNDLE_VARIABLE = "CLINREADNET_BUNDLE"
"""Environment variable that names the default bundle."""


def default_bundle() -> Path:
    """Return the bundle named by ``CLINREADNET_BUNDLE``, else ``bundle`` in the current folder."""
    return Path(os.environ.get(BUNDLE_VARIABLE) or "bundle")


def find_bundle(bundle: Path | None) -> Path:
    """Return a bundle's folder, the default one for None.

    Raises:
        InputError: no such folder.
    """
    bundle = bundle or default_bundle()
    if not bundle.is_dir():
        raise InputError(
            f"{bundle}: no such bundle; run `clinreadnet export --out {bundle}`, or name one with "
            f"`bundle` or {BUNDLE_VARIABLE}"
        )
    return bundle
