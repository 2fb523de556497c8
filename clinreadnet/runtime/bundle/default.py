"""Which bundle is taken where none is named."""

from __future__ import annotations

import os
from pathlib import Path

from clinreadnet.errors import InputError
from clinreadnet.runtime.bundle.trust import MANIFEST_NAME

BUNDLE_VARIABLE = "CLINREADNET_BUNDLE"
"""Environment variable that names the default bundle."""

SHIPPED = Path(__file__).parents[2] / "weights"
"""The bundle inside the package: the shipped checkpoint for the CPU engine, without graphs."""


def default_bundle() -> Path:
    """Return the bundle to use where none is named.

    That is the one that ``CLINREADNET_BUNDLE`` names, else ``bundle`` in the current folder, else
    the one inside the package.
    """
    if named := os.environ.get(BUNDLE_VARIABLE):
        return Path(named)
    here = Path("bundle")
    return here if (here / MANIFEST_NAME).exists() else SHIPPED


def find_bundle(bundle: str | os.PathLike[str] | None) -> Path:
    """Return a bundle's folder, the default one for None.

    Raises:
        InputError: no such folder, or this installation lacks its bundle.
    """
    folder = default_bundle() if bundle is None else Path(bundle)
    if folder == SHIPPED and not (SHIPPED / MANIFEST_NAME).exists():
        raise InputError(
            f"{SHIPPED}: this installation lacks its bundle; install clinreadnet again, or name a "
            f"bundle with `bundle` or {BUNDLE_VARIABLE}"
        )
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such bundle; run `clinreadnet export --out {folder}`, or name one with "
            f"`bundle` or {BUNDLE_VARIABLE}"
        )
    return folder
