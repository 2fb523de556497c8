"""List the series that a node has set aside, retry them or remove them.

The node may be running: these functions change only the states of the series, and the node acts on
them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from clinreadnet.data.dicom_container import Damaged, NotDicom, read_container
from clinreadnet.dicom.attributes import stored_text
from clinreadnet.errors import InputError, first_line, shell_word
from clinreadnet.node.log import HASH_DIGITS
from clinreadnet.node.spool_folder import VERSION, aside_folder

What = Literal["retry", "remove"]
"""Action on a series that is set aside."""

ALL = "all"
"""The name that selects every series that is set aside."""

_BUSY_SECONDS = 10.0
_STATES: dict[What, str] = {"retry": "scoring", "remove": "drop"}
_UID = "SeriesInstanceUID"


@dataclass(frozen=True)
class Aside:
    """A series that is set aside.

    Attributes:
        series: first digits of the hash that identifies the series in the log.
        part: 1, or more for objects that came after an earlier part was claimed.
        objects: number of objects.
        bytes: total size of the objects.
        last: time at which the last object arrived, UTC.
        reason: reason why the series is set aside.
        folder: folder with the objects and a file that explains the reason in detail.
    """

    series: str
    part: int
    objects: int
    bytes: int
    last: str
    reason: str
    folder: Path

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return asdict(self) | {"folder": str(self.folder)}


def list_aside(spool: Path) -> list[Aside]:
    """Return the series that are set aside, oldest first.

    Raises:
        InputError: ``spool`` is not a spool or cannot be read.
    """
    with _database(spool) as database:
        return [aside for _, aside in _rows(spool, database)]


def change(spool: Path, names: Sequence[str], what: What) -> list[Aside]:
    """Request that series are retried or removed; the node acts at once, or when it starts.

    Args:
        spool: folder of the spool.
        names: each ``all``, the hash of a series as in the log, or a SeriesInstanceUID.
        what: action on the series.

    Returns:
        The selected series.

    Raises:
        InputError: a name matches no series that is set aside, or the spool cannot be used.
    """
    with _database(spool) as database:
        database.execute("BEGIN IMMEDIATE")
        rows = _rows(spool, database)
        chosen: dict[int, Aside] = {}
        for name in names:
            matches = [(row, entry) for row, entry in rows if _is(entry, name)]
            if not matches and name != ALL:
                raise InputError(
                    f"{what}={name}: no series of that name is set aside in {spool}; "
                    f"`clinreadnet spool {shell_word(spool)}` lists them"
                )
            chosen |= dict(matches)
        for row in chosen:
            database.execute(
                "UPDATE series SET state = ?, due = 0, attempts = 0, deaths = 0 WHERE id = ?",
                (_STATES[what], row),
            )
        database.execute("COMMIT")
    return list(chosen.values())


def _rows(spool: Path, database: sqlite3.Connection) -> list[tuple[int, Aside]]:
    rows = database.execute(
        "SELECT series.id, key, part, last, reason, count(file), coalesce(sum(bytes), 0) "
        "FROM series LEFT JOIN object ON series = series.id WHERE state = 'aside' "
        "GROUP BY series.id ORDER BY last"
    ).fetchall()
    return [
        (
            row,
            Aside(
                series=key[:HASH_DIGITS],
                part=part,
                objects=objects,
                bytes=size,
                last=datetime.fromtimestamp(last, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                reason=reason,
                folder=aside_folder(spool, key, part),
            ),
        )
        for row, key, part, last, reason, objects, size in rows
    ]


def _is(entry: Aside, name: str) -> bool:
    return name in (ALL, entry.series) or ("." in name and name == _uid_of(entry))


def _uid_of(entry: Aside) -> str:
    """Return the SeriesInstanceUID of a series from its files; the database has only a hash."""
    for path in sorted(entry.folder.glob("*.dcm")):
        try:
            return stored_text(read_container(path, [_UID]).header, _UID)
        except (NotDicom, Damaged, InputError):
            continue
    return ""


@contextmanager
def _database(spool: Path) -> Iterator[sqlite3.Connection]:
    file = spool / "spool.sqlite3"
    try:
        if not file.is_file():
            raise InputError(
                f"{spool}: not a spool; name the folder of `clinreadnet listen --spool`"
            )
        with closing(
            sqlite3.connect(
                f"{file.absolute().as_uri()}?mode=rw",
                uri=True,
                isolation_level=None,
                timeout=_BUSY_SECONDS,
            )
        ) as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                raise InputError(
                    f"{spool}: a spool of version {version}, and this release reads {VERSION}; "
                    "use the release that wrote it"
                )
            yield database
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise InputError(
            f"{spool}: the spool cannot be used ({reason}); run this as the user of the node"
        ) from None
