"""A series on which a library fails is set aside. The node continues with the others."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from pydicom.dataset import Dataset
from support.dicom_files import make_ct, noise
from support.whole import WHOLE
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.dicom import quality_map, structured_report
from clinreadnet.errors import BackendError, InputError, SessionClosed
from clinreadnet.node import work
from clinreadnet.node.aside import change, list_aside
from clinreadnet.node.config import Destination, NodeConfig
from clinreadnet.node.intake import inspect
from clinreadnet.node.node import Node
from clinreadnet.node.spool import SetAside, Spool
from clinreadnet.node.work import Worker
from clinreadnet.runtime import Session

SECRET = "Secret^Name"


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return NodeConfig(
        title="CLINREADNET",
        host="127.0.0.1",
        port=0,
        spool=tmp_path / "spool",
        destination=Destination("127.0.0.1", 1, "PACS"),
        quiet=0.0,
        maps=True,
    )


@pytest.fixture
def node(config: NodeConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Return a node with a spool and ports, without threads."""
    monkeypatch.setattr("clinreadnet.node.node.PAUSE_SECONDS", 0.0)
    with Node(config) as node:
        yield node


@pytest.fixture
def worker(node: Node, session: Session, config: NodeConfig) -> Worker:
    return Worker(session, node.spool, node.metrics, config)


@pytest.fixture
def series() -> Callable[..., Dataset]:
    return lambda number=0, **tags: make_ct(
        noise(number), SeriesInstanceUID=f"1.2.3.{number}", PatientName=SECRET, **tags
    )


def put(spool: Spool, *slices: Dataset) -> str:
    """Add objects as the receiver does; return the name of their series."""
    for ds in slices:
        buffer = io.BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        content = buffer.getvalue()
        with spool.incoming(len(content)) as path:
            path.write_bytes(content)
            ref = inspect(path, ds.SOPClassUID, ds.SOPInstanceUID, resample=False)
            spool.add(replace(ref, expected=None), path, len(content))
    return ref.series[:12]


def states(spool: Spool) -> list[str]:
    rows = spool.database.execute("SELECT state FROM series ORDER BY id").fetchall()
    return [state for (state,) in rows]


def made(spool: Spool) -> dict[int, list[str]]:
    """Return the kinds of objects of each series."""
    kinds: dict[int, list[str]] = {}
    for row, kind in spool.database.execute("SELECT series, kind FROM outgoing ORDER BY kind"):
        kinds.setdefault(row, []).append(kind)
    return kinds


def broken(*arguments: Any, **options: Any) -> Any:
    raise ValueError(f"'{SECRET}' is not valid")


@contextmanager
def fault_at(number: int, error: type[Exception]) -> Iterator[list[str]]:
    """Make a call in the worker's code raise; yield the names of the functions that it calls.

    A call is counted once, however often its line runs.
    """
    calls: list[str] = []
    seen = set()

    def trace(frame: FrameType, event: str, argument: object) -> None:
        caller, code = frame.f_back, frame.f_code
        if event != "call" or caller is None or caller.f_code.co_filename != work.__file__:
            return
        place = caller.f_lineno, code
        if place in seen or "weakref" in code.co_filename:  # of the garbage collector
            return
        seen.add(place)
        calls.append(code.co_name)
        if len(calls) - 1 == number:
            raise error(SECRET)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield calls
    finally:
        sys.settrace(before)


def test_a_fault_at_any_call_of_the_worker_costs_no_other_series(
    node: Node,
    worker: Worker,
    session: Session,
    config: NodeConfig,
    series: Callable[..., Dataset],
    capfd: pytest.CaptureFixture[str],
) -> None:
    spool = node.spool
    put(spool, series(0))
    with fault_at(-1, RuntimeError) as calls:
        assert node.score_next(worker)
    assert {"score_slices", "write_reports", "write_maps", "finish", "describe"} <= set(calls)
    faults = [(number, RuntimeError) for number in range(0, len(calls), 1 if WHOLE else 3)]
    faults += [(n, error) for n in range(0, len(calls), 9) for error in (OSError, MemoryError)]
    for count, (number, error) in enumerate(faults):
        put(spool, series(2 * count + 1))
        with fault_at(number, error):
            node.score_next(worker)
        put(spool, series(2 * count + 2))
        while states(spool)[-1] == "receiving":
            node.score_next(worker)
        assert states(spool)[-1] == "done", (calls[number], error)
        assert set(states(spool)[:-1]) <= {"done", "aside", "scoring"}, (calls[number], error)
    assert states(spool).count("aside") > (10 if WHOLE else 3)
    assert SECRET not in capfd.readouterr().err
    # After a restart each of them is tried again, and has one report and one map in the end.
    folder = spool.folder
    node.stop()
    with closing(Spool(folder, most_bytes=10**9, most_objects=10**4)) as again:
        change(folder, ["all"], "retry")
        again.database.execute("UPDATE series SET due = 0")
        second = Worker(session, again, node.metrics, config)
        while (claimed := again.claim(0)) is not None:
            second.score(claimed)
        assert set(states(again)) == {"done"}
        assert list(made(again).values()) == [["map", "report"]] * len(states(again))
        assert os.listdir(folder / "objects") == os.listdir(folder / "aside") == []
        assert again.quota.objects == len(again.due(10**4))


def test_a_series_that_is_aside_has_a_folder_a_reason_and_a_count(
    node: Node,
    worker: Worker,
    series: Callable[..., Dataset],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(structured_report, "write_reports", broken)
    name = put(node.spool, series(0), series(0, ImagePositionPatient=[0, 0, 5]))
    node.score_next(worker)
    (entry,) = list_aside(node.spool.folder)
    assert (entry.series, entry.part, entry.objects) == (name, 1, 2) and entry.bytes > 10**6
    assert entry.reason.startswith("report: ValueError in node/test_set_aside.py:")
    assert entry.folder == node.spool.folder / "aside" / f"{name}-1"
    assert len(list(entry.folder.glob("*.dcm"))) == 2
    assert SECRET in (entry.folder / "reason.txt").read_text()  # beside the images that have it too
    assert entry.folder.stat().st_mode & 0o077 == 0
    log = capfd.readouterr().err
    assert f"series {name}: set aside ({entry.reason})" in log and SECRET not in log
    assert node.spool.counts()["aside"] == 1 and node.spool.quota.objects == 2
    outcomes = {
        sample.labels["outcome"]: sample.value
        for metric in node.metrics.series.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
    assert outcomes == {"aside": 1}
    assert not node.score_next(worker)


def test_a_map_that_fails_keeps_no_report_back_and_is_made_later(
    node: Node, worker: Worker, series: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = node.spool
    put(spool, series(0))
    with monkeypatch.context() as patch:
        patch.setattr(quality_map, "write_maps", broken)
        node.score_next(worker)
    assert states(spool) == ["aside"] and made(spool) == {1: ["report"]}
    (report,) = spool.due(5)
    (entry,) = change(spool.folder, ["all"], "retry")
    assert entry.reason.startswith("map: ValueError in ")
    node.score_next(worker)
    assert states(spool) == ["done"] and made(spool) == {1: ["map", "report"]}
    assert spool.due(5)[0] == report


def test_memory_that_is_full_five_times_sets_a_series_aside(
    node: Node, worker: Worker, series: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(work, "score_slices", full)
    put(node.spool, series(0))
    for _ in range(4):
        node.score_next(worker)
        assert states(node.spool) == ["scoring"]
        node.spool.database.execute("UPDATE series SET due = 0")
    node.score_next(worker)
    assert states(node.spool) == ["aside"]


def restart(node: Node) -> Spool:
    """Open the spool again, as the next process does, without waiting for a pause."""
    again = Spool(node.spool.folder, most_bytes=10**9, most_objects=10**4)
    again.database.execute("UPDATE series SET due = 0")
    return again


def test_a_series_that_ends_the_process_twice_is_set_aside(
    node: Node,
    session: Session,
    config: NodeConfig,
    series: Callable[..., Dataset],
    capfd: pytest.CaptureFixture[str],
) -> None:
    name = put(node.spool, series(0))
    assert node.spool.claim(0) is not None
    node.stop()
    with closing(restart(node)) as second:
        claimed = second.claim(0)
        assert claimed is not None and claimed.deaths == 1
    with closing(restart(node)) as third:
        put(third, series(1))
        last = Worker(session, third, node.metrics, replace(config, maps=False))
        for _ in range(2):
            claimed = third.claim(0)
            assert claimed is not None
            last.score(claimed)
        assert states(third) == ["aside", "done"]
        (entry,) = list_aside(third.folder)
        assert entry.series == name and "process ended 2 times in a row" in entry.reason
        assert f"series {name}: set aside (the process ended" in capfd.readouterr().err
        change(third.folder, ["all"], "retry")
        claimed = third.claim(0)
        assert claimed is not None and claimed.deaths == 0
        last.score(claimed)
        assert states(third) == ["done", "done"]


@pytest.mark.parametrize("error", [BackendError("busy"), SessionClosed("closed"), OSError("full")])
def test_a_series_that_has_to_wait_has_ended_no_process(
    node: Node,
    worker: Worker,
    series: Callable[..., Dataset],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    put(node.spool, series(0))
    with monkeypatch.context() as patch:
        patch.setattr(work, "score_slices", fail)
        for _ in range(3):
            node.score_next(worker)
            node.spool.database.execute("UPDATE series SET due = 0")
    node.stop()
    with closing(restart(node)) as again:
        claimed = again.claim(0)
        assert claimed is not None and (claimed.attempts, claimed.deaths) == (4, 0)


def test_a_node_that_is_stopped_while_it_scores_counts_as_no_death(
    node: Node,
    session: Session,
    series: Callable[..., Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(*arguments: Any, **options: Any) -> None:
        begun.set()
        go_on.wait(60)
        raise SessionClosed("closed")

    monkeypatch.setattr(work, "score_slices", wait)
    monkeypatch.setattr("clinreadnet.node.node.STOP_SECONDS", 0.1)
    put(node.spool, series(0))
    node.start(session)
    assert begun.wait(60)
    rows = "SELECT state, deaths FROM series"
    assert node.spool.database.execute(rows).fetchall() == [("scoring", 1)]
    node.stop()
    assert node.spool.database.execute(rows).fetchall() == [("scoring", 0)]
    go_on.set()


@pytest.fixture
def aside(
    node: Node, worker: Worker, series: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str]:
    """Return the names of two series that are set aside."""
    names = []
    with monkeypatch.context() as patch:
        patch.setattr(structured_report, "write_reports", broken)
        for number in range(2):
            names.append(put(node.spool, series(number)))
            node.score_next(worker)
            time.sleep(0.01)
    return names[0], names[1]


def command(node: Node, *options: str) -> Any:
    return CliRunner().invoke(app, ["spool", str(node.spool.folder), *options])


def test_the_command_lists_what_is_aside(node: Node, aside: tuple[str, str]) -> None:
    done = command(node, "--json")
    listed = json.loads(done.stdout)["aside"]
    assert [entry["series"] for entry in listed] == list(aside)
    lines = command(node).stdout.splitlines()
    for line, row in zip(lines, listed, strict=False):
        assert line.startswith(f"{row['series']}: 1 object, 0.5 MiB, since {row['last']}: report: ")
    assert SECRET not in "".join(lines) + done.stdout


@pytest.mark.parametrize("by", ["name", "uid"])
def test_one_series_is_tried_again(
    node: Node, worker: Worker, aside: tuple[str, str], by: str
) -> None:
    done = command(node, "--retry", aside[1] if by == "name" else "1.2.3.1")
    assert done.exit_code == 0, done.output
    assert node.score_next(worker) and not node.score_next(worker)
    assert states(node.spool) == ["aside", "done"]
    assert os.listdir(node.spool.folder / "aside") == [f"{aside[0]}-1"]


def test_one_series_is_removed_by_the_node(
    node: Node, worker: Worker, aside: tuple[str, str]
) -> None:
    command(node, "--remove", aside[0])
    node.score_next(worker)
    assert states(node.spool) == ["failed", "aside"] and node.spool.quota.objects == 1
    assert os.listdir(node.spool.folder / "aside") == [f"{aside[1]}-1"]


def test_a_name_that_is_not_aside_and_a_folder_that_is_no_spool_are_refused(
    node: Node, aside: tuple[str, str], tmp_path: Path
) -> None:
    done = command(node, "--retry", "1.2.3.77")
    assert isinstance(done.exception, InputError) and "--retry" in str(done.exception)
    assert states(node.spool) == ["aside", "aside"]
    done = CliRunner().invoke(app, ["spool", str(tmp_path)])
    assert isinstance(done.exception, InputError) and "not a spool" in str(done.exception)


def test_an_empty_list_of_series_aside_is_reported(node: Node) -> None:
    assert command(node).stdout == "no series is set aside\n"


def test_what_is_aside_takes_half_of_the_room_at_most(
    node: Node, worker: Worker, aside: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    node.stop()
    with closing(Spool(node.spool.folder, most_bytes=10**9, most_objects=3)) as spool:
        assert [key[:12] for key in spool.make_room()] == [aside[0]]
        assert states(spool) == ["failed", "aside"] and spool.quota.objects == 1


def test_what_is_aside_for_long_is_removed(
    node: Node, aside: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    node.spool.database.execute("UPDATE series SET last = last - 86400 * 31 WHERE id = 1")
    node.remove_old()
    assert states(node.spool) == ["failed", "aside"]
    assert os.listdir(node.spool.folder / "aside") == [f"{aside[1]}-1"]
    assert f"series {aside[0]}: was set aside for 30 days" in capfd.readouterr().err


@pytest.mark.parametrize("when", ["before-the-move", "half-moved", "retry-half-moved"])
def test_a_process_that_ends_while_files_move_loses_nothing(
    node: Node, session: Session, config: NodeConfig, series: Callable[..., Dataset], when: str
) -> None:
    spool = node.spool
    folder = spool.folder
    name = put(spool, series(0), series(0, ImagePositionPatient=[0, 0, 5]))
    claimed = spool.claim(0)
    assert claimed is not None
    spool.set_aside(claimed, SetAside("reason", "reason"))
    place = folder / "aside" / f"{name}-1"
    files = sorted(place.glob("*.dcm"))
    if when == "before-the-move":
        for path in files:
            path.rename(folder / "objects" / path.name)
        place.joinpath("reason.txt").unlink()
        place.rmdir()
    else:
        files[0].rename(folder / "objects" / files[0].name)
    if when == "retry-half-moved":
        change(folder, ["all"], "retry")
    node.stop()
    with closing(Spool(folder, most_bytes=10**9, most_objects=10)) as again:
        where = "objects" if when == "retry-half-moved" else f"aside/{name}-1"
        assert sorted(path.name for path in (folder / where).glob("*.dcm")) == [
            path.name for path in files
        ]
        change(folder, ["all"], "retry")
        second = Worker(session, again, node.metrics, config)
        series_again = again.claim(0)
        assert series_again is not None
        second.score(series_again)
        assert states(again) == ["done"] and os.listdir(folder / "aside") == []


def test_the_node_goes_on_where_the_spool_itself_raises(
    node: Node, worker: Worker, series: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(node.spool, series(0))
    for error in (sqlite3.OperationalError("locked"), RuntimeError("what?")):
        with monkeypatch.context() as patch:
            patch.setattr(
                node.spool, "claim", lambda quiet, error=error: (_ for _ in ()).throw(error)
            )
            assert not node.score_next(worker)
    assert node.score_next(worker) and states(node.spool) == ["done"]
