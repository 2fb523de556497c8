"""Series that a node has set aside: look at them, and have them tried again or removed.

The node may run meanwhile: only the states of the series change here, and the node acts on them.
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
from clinreadnet.errors import InputError, first_line
from clinreadnet.node.log import HASH_DIGITS
from clinreadnet.node.spool_folder import VERSION, aside_folder

What = Literal["retry", "remove"]
"""What may be done with a series that is aside."""

ALL = "all"
"""Names every series that is aside."""

_BUSY_SECONDS = 10.0
_STATES: dict[What, str] = {"retry": "scoring", "remove": "drop"}
_UID = "SeriesInstanceUID"


@dataclass(frozen=True)
class Aside:
    """A series that is aside.

    Attributes:
        series: the first digits of the hash under which the log names it.
        part: 1, or more for objects that came after an earlier part was claimed.
        objects: number of its objects.
        bytes: their size.
        last: when the last one came, UTC.
        reason: why it is aside.
        folder: of its objects, and of a file with all that is known of the reason.
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
    """Return the series that are aside, the oldest first.

    Raises:
        InputError: ``spool`` is not a spool, or cannot be read.
    """
    with _database(spool) as database:
        return [aside for _, aside in _rows(spool, database)]


def change(spool: Path, names: Sequence[str], what: What) -> list[Aside]:
    """Have series tried again, or removed; a node acts on it at once, or when it starts.

    Args:
        spool: its folder.
        names: ``all``, the hash of a series as the log has it, or a SeriesInstanceUID.
        what: is to be done.

    Returns:
        The series.

    Raises:
        InputError: no series that is aside has such a name, or the spool cannot be used.
    """
    with _database(spool) as database:
        database.execute("BEGIN IMMEDIATE")
        rows = _rows(spool, database)
        chosen: dict[int, Aside] = {}
        for name in names:
            found = [(row, one) for row, one in rows if _is(one, name)]
            if not found and name != ALL:
                raise InputError(
                    f"{what}={name}: no series of that name is aside in {spool}; "
                    f"`clinreadnet spool {spool}` lists them"
                )
            chosen |= dict(found)
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


def _is(one: Aside, name: str) -> bool:
    return name in (ALL, one.series) or ("." in name and name == _uid_of(one))


def _uid_of(one: Aside) -> str:
    """Return the SeriesInstanceUID of a series; the database has only its hash."""
    for path in sorted(one.folder.glob("*.dcm")):
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
