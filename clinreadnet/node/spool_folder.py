"""The spool's folder, its lock and the tables of its database."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from clinreadnet.errors import InputError
from clinreadnet.files import same_file
from clinreadnet.node.log import HASH_DIGITS

fcntl: Any = None  # not on Windows
with suppress(ImportError):
    import fcntl

VERSION = 1
"""Version of the tables. A spool of another version is not touched."""

SCHEMA = f"""
BEGIN;
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    part INTEGER NOT NULL,
    state TEXT NOT NULL,
    last REAL NOT NULL,
    expected INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    UNIQUE (key, part)
);
CREATE TABLE object (
    id INTEGER PRIMARY KEY,
    series INTEGER NOT NULL REFERENCES series (id),
    instance TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL,
    file TEXT,
    bytes INTEGER NOT NULL
);
CREATE INDEX object_series ON object (series);
CREATE TABLE outgoing (
    id INTEGER PRIMARY KEY,
    series INTEGER NOT NULL REFERENCES series (id),
    kind TEXT NOT NULL,
    file TEXT,
    bytes INTEGER NOT NULL,
    sop_class TEXT NOT NULL,
    sop_instance TEXT NOT NULL UNIQUE,
    made REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0,
    sent REAL
);
CREATE INDEX outgoing_file ON outgoing (file) WHERE file IS NOT NULL;
CREATE INDEX series_state ON series (state);
PRAGMA user_version = {VERSION};
COMMIT;
"""

ASIDE = "aside"
"""Folder of the series that could not be scored or reported, with a subfolder for each."""

REASON_FILE = "reason.txt"
"""File in the folder of a series that is set aside. It may repeat values of the headers."""

_DATABASE, _LOCK = "spool.sqlite3", "lock"
_FOLDERS = ("objects", "outgoing", "work", ASIDE)


def lock_folder(folder: Path) -> tuple[int, bool]:
    """Lock the folder until this process ends; create it, accessible only to its owner.

    Returns:
        The descriptor of the lock, and whether the folder is new.

    Raises:
        InputError: the folder cannot be created or written, holds other files, or is locked by
            another process.
    """
    while True:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is a file; name a folder")
        if not folder.parent.is_dir():
            raise InputError(f"{folder.parent}: no such folder; create it first")
        is_new = not folder.exists()
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_content(folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(folder / _LOCK, flags, 0o600)
        except FileNotFoundError:  # another process has just removed its new folder
            continue
        except OSError as error:
            raise InputError(
                f"{folder}: no spool can be created there ({error.strerror}); choose a folder that "
                "this user may write"
            ) from None
        if fcntl is None:
            return lock, is_new
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise InputError(
                f"{folder}: another node uses this spool; stop it, or choose another folder"
            ) from None
        if same_file(folder / _LOCK) == (os.fstat(lock).st_dev, os.fstat(lock).st_ino):
            return lock, is_new and not (folder / _DATABASE).exists()
        os.close(lock)  # that of a folder that has just been removed


def _check_content(folder: Path) -> None:
    foreign = sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in (*_FOLDERS, _LOCK) and not path.name.startswith(_DATABASE)
    )
    if foreign:
        raise InputError(
            f"{folder}: holds {foreign[0]}, so it is not a spool; choose an empty folder"
        )


def make_folders(folder: Path) -> None:
    """Create the folders of a locked spool."""
    for name in _FOLDERS:
        (folder / name).mkdir(mode=0o700, exist_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a locked spool. Its lock goes last, so that no other process is in it meanwhile."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()
        (folder / _LOCK).unlink()
        folder.rmdir()  # fails if another process has begun a spool in it


def open_database(folder: Path) -> sqlite3.Connection:
    """Open the database of a spool, or create one.

    Raises:
        InputError: the database has another version.
        sqlite3.Error: the database cannot be used.
    """
    database = sqlite3.connect(folder / _DATABASE, check_same_thread=False, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in (0, VERSION):
        database.close()
        raise InputError(
            f"{folder}: a spool of version {version}, and this release reads {VERSION}; "
            "let the release that wrote it send the waiting reports, or choose another folder"
        )
    if version == 0:
        database.executescript(SCHEMA)
    return database


def clean_folder(folder: Path, database: sqlite3.Connection) -> tuple[int, int]:
    """Remove the files of interrupted writes; return the number of bytes and objects left."""
    total, objects = 0, 0
    finish_moves(folder, database)
    for table, name in (("object", "objects"), ("outgoing", "outgoing")):
        rows = database.execute(
            f"SELECT file, bytes FROM {table} WHERE file IS NOT NULL"
        ).fetchall()
        known = {file for file, _ in rows}
        for path in (folder / name).iterdir():
            if path.name not in known:
                path.unlink()
        total += sum(size for _, size in rows)
        objects += len(rows)
    shutil.rmtree(folder / "work")
    (folder / "work").mkdir(mode=0o700)
    return total, objects


def aside_folder(folder: Path, key: str, part: int) -> Path:
    """Return the folder in which a series is set aside."""
    return folder / ASIDE / f"{key[:HASH_DIGITS]}-{part}"


def finish_moves(folder: Path, database: sqlite3.Connection) -> None:
    """Move each object to the folder that the state of its series requires."""
    kept = set()
    for row, key, part, state in database.execute(
        "SELECT id, key, part, state FROM series WHERE state IN ('aside', 'scoring', 'drop')"
    ).fetchall():
        place = aside_folder(folder, key, part)
        files = database.execute(
            "SELECT file FROM object WHERE series = ? AND file IS NOT NULL", (row,)
        ).fetchall()
        if state == "scoring":
            move_files([place / file for (file,) in files], folder / "objects")
        else:
            kept.add(place)
            move_files([folder / "objects" / file for (file,) in files], place)
    for place in (folder / ASIDE).iterdir():
        if place not in kept:
            shutil.rmtree(place, ignore_errors=True)


def move_files(files: Iterable[Path], place: Path) -> None:
    """Move the files that exist into a folder, which is created if necessary."""
    place.mkdir(mode=0o700, exist_ok=True)
    for path in files:
        with suppress(FileNotFoundError):
            os.replace(path, place / path.name)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, on systems where a folder can be opened."""
    with suppress(PermissionError):  # Windows
        place = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)
