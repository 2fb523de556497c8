"""Find the default bundle."""

from __future__ import annotations

import os
from pathlib import Path

from clinreadnet.errors import InputError, shell_word
from clinreadnet.runtime.bundle.trust import MANIFEST_NAME

BUNDLE_VARIABLE = "CLINREADNET_BUNDLE"
"""Environment variable that names the default bundle."""

SHIPPED = Path(__file__).parents[2] / "weights"
"""Bundle inside the package: the shipped checkpoint for the CPU engine, without graphs."""


def default_bundle() -> Path:
    """Return the folder of the default bundle.

    This is ``CLINREADNET_BUNDLE`` if it is set, otherwise ``bundle`` in the current folder,
    otherwise the bundle inside the package.
    """
    if named := os.environ.get(BUNDLE_VARIABLE):
        return Path(named)
    here = Path("bundle")
    return here if (here / MANIFEST_NAME).exists() else SHIPPED


def find_bundle(bundle: str | os.PathLike[str] | None) -> Path:
    """Return the folder of a bundle; None selects the default bundle.

    Raises:
        InputError: the folder does not exist, or the package does not contain a bundle.
    """
    folder = default_bundle() if bundle is None else Path(bundle)
    if folder == SHIPPED and not (SHIPPED / MANIFEST_NAME).exists():
        raise InputError(
            f"{SHIPPED}: this installation lacks its bundle; install clinreadnet again, or name a "
            f"bundle with `bundle` or {BUNDLE_VARIABLE}"
        )
    if folder.is_file():
        raise InputError(f"{folder}: is a file; name the folder of the bundle")
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such bundle; run `clinreadnet export --out {shell_word(folder)}`, or "
            f"name one with `bundle` or {BUNDLE_VARIABLE}"
        )
    return folder
