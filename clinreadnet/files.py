"""Write files and folders atomically.

Both context managers yield a temporary path beside the target. They rename it to the target if the
block ends without an exception, and remove it otherwise.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clinreadnet.errors import InputError


def _temporary_sibling(target: Path) -> Path:
    if not target.parent.is_dir():
        raise InputError(f"{target.parent}: no such folder; create it first")
    folder = tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)
    os.chmod(folder, 0o755)
    return Path(folder)


@contextmanager
def whole_file(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that becomes ``target`` (replacing it) when the block succeeds.

    Raises:
        InputError: the parent folder does not exist, or ``target`` is a folder.
    """
    target = Path(target)
    if target.is_dir():
        raise InputError(f"{target}: is a folder; name a file")
    folder = _temporary_sibling(target)
    try:
        yield folder / target.name
        os.replace(folder / target.name, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def whole_folder(target: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``target`` when the block succeeds.

    Args:
        target: folder to create.
        force: replace ``target`` if it exists; the old folder stays until the new one is complete.

    Raises:
        InputError: ``target`` exists and ``force`` is false, is a file or has no parent folder, or
            another process wrote it meanwhile.
    """
    target = Path(target)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: is a file; name a folder")
    if target.exists() and not force:
        raise InputError(f"{target}: already exists; give force=True, or name another")
    folder = _temporary_sibling(target)
    try:
        (folder / "new").mkdir()
        yield folder / "new"
        if force:
            with suppress(FileNotFoundError):
                os.replace(target, folder / "old")
        try:
            os.replace(folder / "new", target)
        except OSError:
            if target.exists():
                raise InputError(
                    f"{target}: another process wrote it meanwhile and its folder stays; name "
                    "another folder, or write one at a time"
                ) from None
            if (folder / "old").exists():
                os.replace(folder / "old", target)
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
