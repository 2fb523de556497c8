"""The spool on disk: received objects, and reports that are waiting to be sent.

A folder with randomly named files and an SQLite database that describes each file. An object exists
from the moment its row is committed; a file without a row is the result of an interrupted write and
is removed at the start. Every change of state is one transaction.

    series: receiving -> scoring -> done, failed or aside object: has a file until its series is
    scored outgoing: has a file until the destination has it

A series that is set aside keeps its objects in a folder of its own. ``clinreadnet spool`` changes
its state back to ``scoring``, or to ``drop``, which removes it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from clinreadnet.dicom.object_files import ObjectFile
from clinreadnet.errors import InputError, first_line
from clinreadnet.node.backoff import pause
from clinreadnet.node.intake import Accepted
from clinreadnet.node.quota import Quota
from clinreadnet.node.spool_folder import (
    REASON_FILE,
    aside_folder,
    clean_folder,
    lock_folder,
    make_folders,
    move_files,
    open_database,
    remove_folder,
    sync_folder,
)

_COLUMNS = (
    "SELECT outgoing.id, key, kind, file, sop_class, sop_instance, outgoing.attempts "
    "FROM outgoing JOIN series ON series = series.id WHERE file IS NOT NULL"
)
_COUNTED = ("receiving", "scoring", "failed", "aside")


class OtherContent(Exception):
    """The SOPInstanceUID is known with different pixels."""


@dataclass(frozen=True)
class Series:
    """A series that is being scored.

    Attributes:
        row: row in the database.
        key: hash of patient, study and series.
        part: 1, or more for objects that arrived after an earlier part was claimed.
        attempts: number of attempts to score it, including this one.
        deaths: number of successive processes that ended while they scored it.
        files: files of the objects, with their sizes in bytes.
    """

    row: int
    key: str
    part: int
    attempts: int
    deaths: int
    files: dict[Path, int]


@dataclass(frozen=True)
class SetAside:
    """The reason why a series is set aside.

    Attributes:
        reason: one line without values of a header.
        detail: text for the folder of the series; it may repeat values of the headers.
    """

    reason: str
    detail: str


@dataclass(frozen=True)
class Outgoing:
    """An object that is waiting to be sent.

    The SOP instance never changes: a destination that receives it twice has one object.
    """

    row: int
    series: str
    kind: str
    path: Path
    sop_class: str
    sop_instance: str
    attempts: int


class Spool:
    """A spool. Any number of threads of a single process may use it.

    Attributes:
        folder: folder of the spool.
        lock: descriptor of the file that keeps other processes out.
    """

    def __init__(self, folder: Path, *, most_bytes: int, most_objects: int) -> None:
        """Open a spool, or create one.

        Args:
            folder: folder of the spool, created if it does not exist.
            most_bytes: largest total size of the objects.
            most_objects: largest number of objects.

        Raises:
            InputError: the spool cannot be used, belongs to another process or has another version.
        """
        self.folder = folder
        self.mutex = threading.RLock()
        self._most_aside = most_bytes // 2, most_objects // 2
        self._resumed = 0.0
        self.lock, self._is_new = lock_folder(folder)
        try:
            make_folders(folder)
            self.database = open_database(folder)
            self.quota = Quota(
                folder, most_bytes, most_objects, *clean_folder(folder, self.database)
            )
        except BaseException as error:
            self._release(remove=self._is_new)
            if not isinstance(error, sqlite3.Error):
                raise
            raise InputError(
                f"{folder}: the spool's database cannot be used ({first_line(error)}); move the "
                "folder away and start with an empty one: senders must repeat what waited in it"
            ) from None

    def close(self, *, remove_unused: bool = False) -> None:
        """Close the database and release the folder.

        Args:
            remove_unused: whether to remove a folder that this spool created and that has never
                held a series.
        """
        with self.mutex:
            unused = remove_unused and self._is_new and not self._has_series()
            self.database.close()
            self._release(remove=unused)

    def _has_series(self) -> bool:
        try:
            return self.database.execute("SELECT 1 FROM series LIMIT 1").fetchone() is not None
        except sqlite3.Error:
            return True

    def _release(self, *, remove: bool) -> None:
        if remove:
            remove_folder(self.folder)
        os.close(self.lock)

    # Received objects

    @contextmanager
    def incoming(self, size: int) -> Iterator[Path]:
        """Yield a path for an object; the file is removed if the block raises.

        Args:
            size: size of the object in bytes.

        Raises:
            Full: the object exceeds the limits, or the disk is nearly full.
        """
        self.quota.take(size)
        path = self.folder / "objects" / f"{secrets.token_hex(16)}.dcm"
        try:
            yield path
        except BaseException:
            self.discard(path, size)
            raise

    def discard(self, path: Path, size: int) -> None:
        """Remove an object that is not kept."""
        with suppress(OSError):
            path.unlink()
        self.quota.give(size)

    def add(self, new: Accepted, path: Path, size: int) -> bool:
        """Add an object to its series; it is on disk when this method returns.

        Args:
            new: result of `inspect`.
            path: from `incoming`, written and flushed to disk.
            size: size of the file in bytes.

        Returns:
            False if the object is known with the same pixels, and is therefore not kept.

        Raises:
            OtherContent: the SOPInstanceUID is known with different pixels.
        """
        now = time.time()
        sync_folder(path.parent)
        with self.transaction() as database:
            known = database.execute(
                "SELECT series.key, object.digest FROM object JOIN series ON series = series.id "
                "WHERE instance = ?",
                (new.instance,),
            ).fetchone()
            if known is not None:
                if known != (new.series, new.digest):
                    raise OtherContent
                return False
            row = database.execute(
                "SELECT id FROM series WHERE key = ? AND state = 'receiving'", (new.series,)
            ).fetchone()
            if row is None:
                row = database.execute(
                    "INSERT INTO series (key, part, state, last) SELECT ?, count(*) + 1, "
                    "'receiving', ? FROM series WHERE key = ? RETURNING id",
                    (new.series, now, new.series),
                ).fetchone()
            database.execute(
                "UPDATE series SET last = ?, expected = coalesce(?, expected) WHERE id = ?",
                (now, new.expected, row[0]),
            )
            database.execute(
                "INSERT INTO object (series, instance, digest, file, bytes) VALUES (?, ?, ?, ?, ?)",
                (row[0], new.instance, new.digest, path.name, size),
            )
        return True

    # Series to score

    def resume(self) -> None:
        """Record that objects can arrive from now on: earlier time does not count as quiet."""
        self._resumed = time.time()

    def claim(self, quiet: float) -> Series | None:
        """Return a complete series and record that its scoring began, or None if there is none.

        If the process ends before the series is scored, the series is claimed again after a pause
        that grows with each attempt. It counts as a death unless `release` or an outcome follows.

        Args:
            quiet: seconds without a new object, while the node is listening, after which a series
                is complete. A series with as many objects as its header announces is complete after
                one second.
        """
        now = time.time()
        self._drop()
        with self.transaction() as database:
            row = database.execute(
                "SELECT id, key, part, attempts, deaths FROM series WHERE due <= :now AND ("
                " state = 'scoring' OR state = 'receiving' AND"
                " (max(last, :resumed) <= :quiet OR last > :now + 1"
                "  OR last <= :moment AND expected <= (SELECT count(*) FROM object JOIN series AS"
                "  other ON object.series = other.id WHERE other.key = series.key)))"
                " ORDER BY attempts, last LIMIT 1",
                {
                    "now": now,
                    "quiet": now - quiet,
                    "moment": now - 1,
                    "resumed": self._resumed,
                },
            ).fetchone()
            if row is None:
                return None
            number, key, part, attempts, deaths = row
            database.execute(
                "UPDATE series SET state = 'scoring', attempts = ?, deaths = deaths + 1, due = ? "
                "WHERE id = ?",
                (attempts + 1, now + pause(attempts), number),
            )
            rows = database.execute(
                "SELECT file, bytes FROM object WHERE series = ? ORDER BY id", (number,)
            ).fetchall()
        files = {self.folder / "objects" / name: size for name, size in rows}
        aside = aside_folder(self.folder, key, part)
        if aside.exists():  # it is tried again
            move_files([aside / path.name for path in files], self.folder / "objects")
        return Series(number, key, part, attempts + 1, deaths, files)

    def release(self, series: Series) -> None:
        """Record that the process survived an attempt to score a series that had no outcome."""
        with self.transaction() as database:
            database.execute("UPDATE series SET deaths = 0 WHERE id = ?", (series.row,))

    def made(self, series: Series) -> set[str]:
        """Return the kinds of objects that an earlier attempt made from a series."""
        with self.mutex:
            rows = self.database.execute(
                "SELECT kind FROM outgoing WHERE series = ?", (series.row,)
            ).fetchall()
        return {kind for (kind,) in rows}

    def finish(
        self,
        series: Series,
        made: Sequence[tuple[str, ObjectFile]],
        aside: SetAside | None = None,
    ) -> None:
        """Replace the objects of a series by the objects made from them, in one step.

        Args:
            series: from `claim`.
            made: kinds and files, flushed to disk in the folder `work`.
            aside: reason why another object could not be made; the series is then set aside too.
        """
        moved = [
            (self.folder / "outgoing" / f"{secrets.token_hex(16)}.dcm", *written)
            for written in made
        ]
        sizes = [written.path.stat().st_size for _, written in made]
        try:
            for place, _, written in moved:
                os.replace(written.path, place)
            sync_folder(self.folder / "outgoing")
            with self.transaction() as database:
                for (place, kind, written), size in zip(moved, sizes, strict=True):
                    database.execute(
                        "INSERT INTO outgoing (series, kind, file, bytes, sop_class, sop_instance, "
                        "made) VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (
                            *(series.row, kind, place.name, size),
                            *(written.sop_class, written.sop_instance, time.time()),
                        ),
                    )
                if aside is None:
                    database.execute("UPDATE series SET state = 'done' WHERE id = ?", (series.row,))
                    database.execute(
                        "UPDATE object SET file = NULL WHERE series = ?", (series.row,)
                    )
                else:
                    self._note_aside(series, aside)
        except BaseException:
            for place, *_ in moved:
                place.unlink(missing_ok=True)
            raise
        self.quota.add(sizes)
        if aside is None:
            self._remove(series)
        else:
            self._move_aside(series, aside)

    def set_aside(self, series: Series, aside: SetAside) -> None:
        """Set aside a series that cannot be scored or reported."""
        with self.transaction():
            self._note_aside(series, aside)
        self._move_aside(series, aside)

    def make_room(self) -> list[str]:
        """Drop the oldest series that are set aside, until they take at most half of the limits.

        Returns:
            The keys of the dropped series.
        """
        most_bytes, most_objects = self._most_aside
        dropped = []
        while True:
            with self.transaction() as database:
                total, count = database.execute(
                    "SELECT coalesce(sum(bytes), 0), count(*) FROM object JOIN series ON "
                    "series = series.id WHERE state = 'aside' AND file IS NOT NULL"
                ).fetchone()
                if total <= most_bytes and count <= most_objects:
                    break
                dropped += database.execute(
                    "UPDATE series SET state = 'drop' WHERE id = (SELECT id FROM series "
                    "WHERE state = 'aside' ORDER BY last LIMIT 1) RETURNING key"
                ).fetchone()
        self._drop()
        return dropped

    def expire_aside(self, days: float) -> list[str]:
        """Drop the series that are set aside and got no object in the last ``days``."""
        with self.transaction() as database:
            rows = database.execute(
                "UPDATE series SET state = 'drop' WHERE state = 'aside' AND last < ? RETURNING key",
                (time.time() - days * 86400,),
            ).fetchall()
        self._drop()
        return [key for (key,) in rows]

    def fail(self, series: Series, reason: str) -> None:
        """Give up a series: its reason is kept, and its objects count as never received."""
        with self.transaction() as database:
            database.execute(
                "UPDATE series SET state = 'failed', reason = ? WHERE id = ?", (reason, series.row)
            )
            database.execute("DELETE FROM object WHERE series = ?", (series.row,))
        self._remove(series)

    def counts(self) -> dict[str, float]:
        """Return the number of series by state, and the bytes and objects in the spool."""
        with self.mutex:
            states = dict(
                self.database.execute("SELECT state, count(*) FROM series GROUP BY state")
            )
        counts: dict[str, float] = {"bytes": self.quota.bytes, "objects": self.quota.objects}
        return counts | {name: states.get(name, 0) for name in _COUNTED}

    @property
    def work(self) -> Path:
        """Folder for temporary files of the series that is being scored."""
        return self.folder / "work"

    # Objects to send

    def due(self, count: int) -> list[Outgoing]:
        """Return up to ``count`` objects whose next attempt is due, oldest first."""
        return self._select(
            "AND outgoing.due <= ? ORDER BY outgoing.id LIMIT ?", (time.time(), count)
        )

    def sent(self, item: Outgoing) -> None:
        """Record that the destination has an object, and remove its file."""
        with self.transaction() as database:
            row = database.execute(
                "UPDATE outgoing SET file = NULL, sent = ? WHERE id = ? RETURNING bytes",
                (time.time(), item.row),
            ).fetchone()
        with suppress(OSError):
            item.path.unlink()
        self.quota.give(row[0])

    def postpone(self, item: Outgoing, seconds: float) -> None:
        """Record that the destination refused an object, and postpone the next attempt."""
        with self.transaction() as database:
            database.execute(
                "UPDATE outgoing SET attempts = attempts + 1, due = ? WHERE id = ?",
                (time.time() + seconds, item.row),
            )

    def waiting(self) -> tuple[int, float]:
        """Return the number of objects to send, and the age of the oldest in seconds."""
        with self.mutex:
            count, oldest = self.database.execute(
                "SELECT count(*), min(made) FROM outgoing WHERE file IS NOT NULL"
            ).fetchone()
        return count, 0.0 if oldest is None else max(time.time() - oldest, 0.0)

    def expire_outgoing(self, days: float) -> list[Outgoing]:
        """Forget the series that ended ``days`` ago or earlier.

        Returns:
            The removed objects that could not be sent in that time.
        """
        before = time.time() - days * 86400
        lost = self._select("AND made < ?", (before,))
        for item in lost:
            self.sent(item)
        old = (
            "SELECT id FROM series WHERE state IN ('done', 'failed') AND last < ? AND NOT EXISTS "
            "(SELECT 1 FROM outgoing WHERE series = series.id AND file IS NOT NULL)"
        )
        with self.transaction() as database:
            for table in ("object", "outgoing"):
                database.execute(f"DELETE FROM {table} WHERE series IN ({old})", (before,))
            database.execute(f"DELETE FROM series WHERE id IN ({old})", (before,))
        return lost

    # Internals

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the database for one transaction, which is on disk when the block ends."""
        with self.mutex:
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield self.database
                self.database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self.database.execute("ROLLBACK")
                raise

    def _select(self, which: str, values: tuple[float, ...]) -> list[Outgoing]:
        with self.mutex:
            rows = self.database.execute(f"{_COLUMNS} {which}", values).fetchall()
        folder = self.folder / "outgoing"
        return [
            Outgoing(row, key, kind, folder / file, *rest) for row, key, kind, file, *rest in rows
        ]

    def _note_aside(self, series: Series, aside: SetAside) -> None:
        self.database.execute(
            "UPDATE series SET state = 'aside', reason = ? WHERE id = ?",
            (aside.reason, series.row),
        )

    def _move_aside(self, series: Series, aside: SetAside) -> None:
        """Move the objects of a series; the next start finishes a move that was interrupted."""
        place = aside_folder(self.folder, series.key, series.part)
        with suppress(OSError):
            move_files(series.files, place)
            (place / REASON_FILE).write_text(aside.detail, "utf-8", "backslashreplace")

    def _drop(self) -> None:
        """Remove the series that `expire_aside`, `make_room` or a user dropped."""
        with self.mutex:  # throughout: otherwise two threads could release the same space
            rows = self.database.execute(
                "SELECT id, key, part FROM series WHERE state = 'drop'"
            ).fetchall()
            for row, key, part in rows:
                place = aside_folder(self.folder, key, part)
                files = self.database.execute(
                    "SELECT file, bytes FROM object WHERE series = ? AND file IS NOT NULL", (row,)
                ).fetchall()
                paths = {place / name: size for name, size in files}
                self.fail(Series(row, key, part, 0, 0, paths), "removed")

    def _remove(self, series: Series) -> None:
        for path, size in series.files.items():
            self.discard(path, size)
        shutil.rmtree(aside_folder(self.folder, series.key, series.part), ignore_errors=True)
