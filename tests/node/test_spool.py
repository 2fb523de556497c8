"""The spool: complete series, restarts, and limits on its size."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from clinreadnet.dicom.object_files import ObjectFile
from clinreadnet.errors import InputError
from clinreadnet.node import quota, spool_folder
from clinreadnet.node import spool as spool_module
from clinreadnet.node.intake import Accepted
from clinreadnet.node.quota import Full
from clinreadnet.node.spool import OtherContent, Series, Spool


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


def open_spool(folder: Path, **limits: int) -> Spool:
    return Spool(
        folder,
        most_bytes=limits.get("most_bytes", 10**9),
        most_objects=limits.get("most_objects", 1000),
    )


@pytest.fixture
def spool(tmp_path: Path, clock: Clock) -> Iterator[Spool]:
    with closing(open_spool(tmp_path / "spool")) as spool:
        yield spool


def add(
    spool: Spool,
    instance: str,
    key: str = "series",
    *,
    digest: str = "d",
    expected: int | None = None,
) -> bool:
    with spool.incoming(10) as path:
        path.write_bytes(b"0" * 10)
        new = spool.add(Accepted(key, instance, digest, expected), path, 10)
    if not new:
        spool.discard(path, 10)
    return new


def claimed(spool: Spool, clock: Clock) -> Series:
    """Add an object, wait until its series is complete, and claim it."""
    add(spool, "a")
    clock.now += 31
    series = spool.claim(30)
    assert series is not None
    return series


def make(spool: Spool, series: Series, uid: str = "1.2") -> None:
    path = spool.work / "sr-1.dcm"
    path.write_bytes(b"report")
    spool.finish(series, [("report", ObjectFile(path, "1.2.3", uid))])


def files(spool: Spool, name: str) -> int:
    return len(list((spool.folder / name).iterdir()))


def test_a_series_is_complete_after_a_quiet_time(spool: Spool, clock: Clock) -> None:
    add(spool, "a")
    clock.now += 20
    add(spool, "b")
    clock.now += 29
    assert spool.claim(30) is None
    clock.now += 2
    series = spool.claim(30)
    assert series is not None and len(series.files) == 2 and series.part == 1


def test_a_series_is_complete_a_second_after_its_last_object_if_the_count_says_so(
    spool: Spool, clock: Clock
) -> None:
    add(spool, "a", expected=2)
    clock.now += 5
    assert spool.claim(30) is None
    add(spool, "b", expected=2)
    assert spool.claim(30) is None
    clock.now += 1
    assert spool.claim(30) is not None


def test_the_count_is_that_of_every_part_of_the_series(spool: Spool, clock: Clock) -> None:
    first = claimed(spool, clock)
    make(spool, first)
    add(spool, "b", expected=2)
    clock.now += 1
    second = spool.claim(30)
    assert second is not None and second.part == 2 and len(second.files) == 1


def test_the_time_in_which_nothing_could_come_is_no_quiet_time(spool: Spool, clock: Clock) -> None:
    add(spool, "a")
    clock.now += 3600  # the node was down
    spool.resume()
    assert spool.claim(30) is None
    clock.now += 30
    assert spool.claim(30) is not None


def test_a_clock_that_was_put_back_does_not_keep_a_series(spool: Spool, clock: Clock) -> None:
    add(spool, "a")
    clock.now -= 86400
    assert spool.claim(30) is not None


def test_an_object_that_comes_while_its_series_is_scored_starts_another_part(
    spool: Spool, clock: Clock
) -> None:
    add(spool, "a")
    clock.now += 31
    first = spool.claim(30)
    add(spool, "b")
    assert first is not None
    make(spool, first)
    assert files(spool, "objects") == 1
    clock.now += 31
    second = spool.claim(30)
    assert second is not None and second.part == 2


def test_a_known_object_is_kept_once_and_another_under_its_uid_is_refused(spool: Spool) -> None:
    assert add(spool, "a") and not add(spool, "a")
    with pytest.raises(OtherContent):
        add(spool, "a", digest="other")
    with pytest.raises(OtherContent):
        add(spool, "a", key="another series")
    assert files(spool, "objects") == 1 and spool.quota.objects == 1 and spool.quota.bytes == 10


def test_what_was_added_is_there_after_the_process_ends_at_any_step(
    tmp_path: Path, clock: Clock
) -> None:
    """Open the spool again without closing it. The lock is released as at the end of a process."""
    folder = tmp_path / "spool"

    def reopen(spool: Spool) -> Spool:
        import os

        os.close(spool.lock)
        return open_spool(folder)

    spool = open_spool(folder)
    add(spool, "a")
    (folder / "objects" / "half.dcm").write_bytes(b"cut off")
    spool = reopen(spool)
    assert files(spool, "objects") == 1 and spool.quota.objects == 1
    clock.now += 31
    assert spool.claim(30) is not None
    (spool.work / "series").mkdir()
    spool = reopen(spool)  # it ended while it scored
    assert files(spool, "work") == 0
    again = spool.claim(30)
    assert again is not None and again.attempts == 2 and len(again.files) == 1
    make(spool, again)
    spool = reopen(spool)
    assert files(spool, "objects") == 0 and spool.claim(30) is None
    (waiting,) = spool.due(5)
    assert waiting.path.read_bytes() == b"report" and spool.quota.bytes == 6
    spool.sent(waiting)
    spool = reopen(spool)
    assert spool.due(5) == [] and files(spool, "outgoing") == 0
    assert (spool.quota.bytes, spool.quota.objects) == (0, 0)
    assert not add(spool, "a")  # and what it was is still known
    spool.close()


def test_a_series_whose_scoring_ends_the_process_is_retried_less_often(
    spool: Spool, clock: Clock
) -> None:
    add(spool, "a")
    clock.now += 31
    times = []
    for _ in range(200000):
        if spool.claim(30) is not None:
            times.append(clock.now)
        if len(times) == 5:
            break
        clock.now += 1
    assert [round(b - a) for a, b in zip(times, times[1:], strict=False)] == [1, 2, 4, 8]


def test_a_failed_series_is_forgotten_so_that_it_can_be_sent_again(
    spool: Spool, clock: Clock
) -> None:
    series = claimed(spool, clock)
    spool.fail(series, "no slice")
    assert files(spool, "objects") == 0 and spool.quota.objects == 0
    assert spool.counts()["failed"] == 1
    assert add(spool, "a", digest="mended")


def test_it_is_full_by_objects_by_bytes_and_by_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_spool(tmp_path / "a", most_objects=1)) as spool:
        add(spool, "a")
        with pytest.raises(Full):
            add(spool, "b")
    with closing(open_spool(tmp_path / "b", most_bytes=15)) as spool:
        add(spool, "a")
        with pytest.raises(Full):
            add(spool, "b")
    usage = type("Usage", (), {"free": quota.limits.SPOOL_FREE + 9})
    monkeypatch.setattr(quota.shutil, "disk_usage", lambda folder: usage)
    with closing(open_spool(tmp_path / "c")) as spool, pytest.raises(Full):
        add(spool, "a")
    assert files(spool, "objects") == 0


def test_old_series_are_forgotten_and_unsent_objects_are_named(spool: Spool, clock: Clock) -> None:
    series = claimed(spool, clock)
    make(spool, series)
    clock.now += 29 * 86400
    assert spool.expire_outgoing(30) == [] and not add(spool, "a")
    clock.now += 2 * 86400
    (lost,) = spool.expire_outgoing(30)
    assert lost.kind == "report" and files(spool, "outgoing") == 0
    assert spool.expire_outgoing(30) == [] and add(spool, "a")


def test_a_refused_object_waits(spool: Spool, clock: Clock) -> None:
    series = claimed(spool, clock)
    make(spool, series)
    (item,) = spool.due(5)
    spool.postpone(item, 60)
    assert spool.due(5) == [] and spool.waiting()[0] == 1
    clock.now += 61
    assert spool.due(5)[0].attempts == 1


def test_one_process_at_a_time(spool: Spool) -> None:
    with pytest.raises(InputError, match="another node uses this spool"):
        open_spool(spool.folder)


def check_alone(spool: Spool) -> None:
    """Check that a spool works and that it keeps other processes out."""
    assert add(spool, "a") and len(list((spool.folder / "objects").iterdir())) == 1
    with pytest.raises(InputError, match="another node uses this spool"):
        open_spool(spool.folder)
    spool.close()
    with closing(open_spool(spool.folder)) as again:
        assert not add(again, "a")


def test_a_new_spool_is_removed_before_another_process_locks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_spool(tmp_path / "spool")
    lock = spool_folder.fcntl.flock

    def remove_first(*arguments: int) -> None:
        monkeypatch.undo()
        first.close(remove_unused=True)
        lock(*arguments)

    monkeypatch.setattr(spool_folder.fcntl, "flock", remove_first)
    check_alone(open_spool(tmp_path / "spool"))


def test_another_process_opens_a_new_spool_while_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_spool(tmp_path / "spool")
    opened: list[Spool] = []
    unlink = os.unlink

    def open_another(path: str | Path, **options: int) -> None:
        unlink(path, **options)
        if Path(path).name == "lock":
            opened.append(open_spool(tmp_path / "spool"))

    monkeypatch.setattr(os, "unlink", open_another)
    first.close(remove_unused=True)
    monkeypatch.undo()
    check_alone(*opened)


def test_a_spool_that_cannot_be_cleaned_is_not_locked_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_spool(tmp_path / "spool").close()
    with monkeypatch.context() as patch:
        patch.setattr(spool_module, "clean_folder", fail)
        with pytest.raises(OSError, match="Input/output error"):
            open_spool(tmp_path / "spool")
    check_alone(open_spool(tmp_path / "spool"))


def fail(*arguments: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_spool_of_another_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    with closing(open_spool(folder)) as spool:
        add(spool, "a")
    database = folder / "spool.sqlite3"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="a spool of version 99, and this release reads 1"):
        open_spool(folder)
    assert len(list((folder / "objects").iterdir())) == 1


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    open_spool(folder).close()
    (folder / "spool.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(InputError, match="the spool's database cannot be used"):
        open_spool(folder)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(InputError, match="holds thesis.txt, so it is not a spool"):
        open_spool(tmp_path)


def test_a_spool_that_cannot_be_a_folder_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, why in (("file", "file: is a file; name a folder"), ("a/b", "a: no such folder")):
        with pytest.raises(InputError, match=why):
            open_spool(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_other_users_cannot_read_the_spool(spool: Spool) -> None:
    assert spool.folder.stat().st_mode & 0o077 == 0
