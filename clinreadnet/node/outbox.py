"""The objects of the spool that wait to be sent."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clinreadnet.node.spool import Spool

_COLUMNS = (
    "SELECT outgoing.id, key, kind, file, sop_class, sop_instance, outgoing.attempts "
    "FROM outgoing JOIN series ON series = series.id WHERE file IS NOT NULL"
)


@dataclass(frozen=True)
class Outgoing:
    """An object that waits: its row, the hash of its series, what it is, and how often it failed.

    The SOP instance never changes: a destination that gets it twice has one object.
    """

    row: int
    series: str
    kind: str
    path: Path
    sop_class: str
    sop_instance: str
    attempts: int


class Outbox:
    """What waits to be sent. Any number of threads may use it."""

    def __init__(self, spool: Spool) -> None:
        """Use an open spool."""
        self._spool = spool

    def due(self, count: int) -> list[Outgoing]:
        """Return some of the objects whose next try is due, the oldest first."""
        return self._select(
            "AND outgoing.due <= ? ORDER BY outgoing.id LIMIT ?", (time.time(), count)
        )

    def sent(self, one: Outgoing) -> None:
        """Note that the destination has an object, and remove the file."""
        spool = self._spool
        with spool.transaction() as database:
            row = database.execute(
                "UPDATE outgoing SET file = NULL, sent = ? WHERE id = ? RETURNING bytes",
                (time.time(), one.row),
            ).fetchone()
        with suppress(OSError):
            one.path.unlink()
        spool.room.give(row[0])

    def postpone(self, one: Outgoing, seconds: float) -> None:
        """Note that the destination refused an object, and when it is tried again."""
        with self._spool.transaction() as database:
            database.execute(
                "UPDATE outgoing SET attempts = attempts + 1, due = ? WHERE id = ?",
                (time.time() + seconds, one.row),
            )

    def waiting(self) -> tuple[int, float]:
        """Return the number of objects that wait, and the age of the oldest in seconds."""
        with self._spool.mutex:
            count, oldest = self._spool.database.execute(
                "SELECT count(*), min(made) FROM outgoing WHERE file IS NOT NULL"
            ).fetchone()
        return count, 0.0 if oldest is None else max(time.time() - oldest, 0.0)

    def expire(self, days: float) -> list[Outgoing]:
        """Forget series that ended some days ago.

        Returns:
            The objects that could not be sent for so long; they are removed too.
        """
        before = time.time() - days * 86400
        lost = self._select("AND made < ?", (before,))
        for one in lost:
            self.sent(one)
        old = (
            "SELECT id FROM series WHERE state IN ('done', 'failed') AND last < ? AND NOT EXISTS "
            "(SELECT 1 FROM outgoing WHERE series = series.id AND file IS NOT NULL)"
        )
        with self._spool.transaction() as database:
            for table in ("object", "outgoing"):
                database.execute(f"DELETE FROM {table} WHERE series IN ({old})", (before,))
            database.execute(f"DELETE FROM series WHERE id IN ({old})", (before,))
        return lost

    def _select(self, which: str, values: tuple[float, ...]) -> list[Outgoing]:
        with self._spool.mutex:
            rows = self._spool.database.execute(f"{_COLUMNS} {which}", values).fetchall()
        folder = self._spool.folder / "outgoing"
        return [
            Outgoing(row, key, kind, folder / file, *rest) for row, key, kind, file, *rest in rows
        ]
