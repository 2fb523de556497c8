"""Phases of the measurement: steady load, faults, full disk, invalid input, and overhead."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from support.dicom_files import noise, write_ct
from support.hostile_peer import encoded, play_all
from support.listen_process import ListenProcess
from support.pacs import Pacs, referenced

from bench.records.node_load.traffic import Outcome, Sent, make_series, send

_PATIENCE = 1800.0
_WARM_UP = 0.2
_SAMPLE = 1.0  # seconds


def wait_for(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@contextmanager
def node(bundle: Path, folder: Path, pacs: Pacs, *options: str) -> Iterator[ListenProcess]:
    """Start a node that sends to the PACS, with the spool ``folder/spool``."""
    process = ListenProcess(
        bundle, folder / "spool", f"127.0.0.1:{pacs.port}:PACS", "--resample", *options
    )
    with process:
        yield process


def tally(pacs: Pacs, series: Sequence[Sequence[Sent]]) -> dict[str, int]:
    """Compare the sent slices with the received reports. A repeated report counts once."""
    reports = {str(report.SOPInstanceUID): report for report in pacs.received}
    scored = Counter(uid for report in reports.values() for uid in referenced(report))
    wanted = {report.instance for own in series for report in own}
    return {
        "objects": len(wanted),
        "series": len(series),
        "reports": len(reports),
        "sent_again": len(pacs.received) - len(reports),
        "lost": len(wanted - set(scored)),
        "scored_twice": sum(count > 1 for count in scored.values()),
        "unknown": len(set(scored) - wanted),
    }


def all_scored(pacs: Pacs, series: Sequence[Sequence[Sent]]) -> Callable[[], bool]:
    """Return a function that checks that every slice is in a report."""
    total = sum(map(len, series))
    seen: dict[str, int] = {}

    def check() -> bool:
        for report in list(pacs.received):
            if (uid := str(report.SOPInstanceUID)) not in seen:
                seen[uid] = len(referenced(report))
        return sum(seen.values()) >= total

    return check


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def milliseconds(outcome: Outcome) -> dict[str, float]:
    percentiles = np.percentile(np.array(outcome.seconds) * 1e3, [50, 99, 100])
    return dict(zip(("p50", "p99", "most"), percentiles.round(1).tolist(), strict=True))


def steady(bundle: Path, objects: int, associations: int) -> dict[str, Any]:
    """Send and score without faults; record memory and response times."""
    series = make_series(objects // 50, 50)
    pacs = Pacs()
    samples: list[tuple[int, int]] = []
    done = threading.Event()
    with tempfile.TemporaryDirectory() as place, node(bundle, Path(place), pacs) as process:

        def watch() -> None:
            while not done.wait(_SAMPLE):
                samples.append((50 * len(pacs.received), resident(process.pid)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.monotonic()
        outcome = send(process.port, series, associations)
        seconds = time.monotonic() - start
        wait_for(all_scored(pacs, series), "every slice is in a report")
        done.set()
        watcher.join()
    pacs.stop()
    warm = [size for scored, size in samples if scored > _WARM_UP * objects]
    middle = float(np.median(warm))
    return tally(pacs, series) | {
        "associations": associations,
        "seconds": round(seconds, 1),
        "answer_ms": milliseconds(outcome),
        "refused": dict(outcome.refused),
        "resident_bytes": [min(warm), max(warm)],
        "resident_percent": round(100 * max(max(warm) / middle - 1, 1 - min(warm) / middle), 1),
        "samples": samples,
    }


def faults(bundle: Path, objects: int, associations: int, kills: int) -> dict[str, Any]:
    """Kill the node repeatedly, and stop the PACS for a third of the time."""
    series = make_series(objects // 50, 50)
    pacs = Pacs()
    draw = random.Random(20)
    moments = sorted(draw.uniform(0.02, 0.98) * objects for _ in range(kills))
    accepted, killed = [0], 0
    with (
        tempfile.TemporaryDirectory() as place,
        node(bundle, Path(place), pacs) as process,
        ThreadPoolExecutor(1) as pool,
    ):
        progress = partial(accepted.__setitem__, 0)
        sending = pool.submit(send, process.port, series, associations, progress=progress)
        down = False
        while not sending.done():
            time.sleep(0.02)
            if killed < kills and accepted[0] >= moments[killed]:
                process.kill()
                process.start()
                killed += 1
            if not down and objects / 3 <= accepted[0] < 2 * objects / 3:
                pacs.stop()
                down = True
            if down and accepted[0] >= 2 * objects / 3:
                pacs.start()
                down = False
        outcome = sending.result()
        if down:
            pacs.start()
        wait_for(all_scored(pacs, series), "every slice is in a report")
        time.sleep(5)  # wait for repeated reports
        integrity = check_database(Path(place) / "spool")
    pacs.stop()
    return tally(pacs, series) | {
        "associations": associations,
        "kills": killed,
        "connections_broken": outcome.broken,
        "refused": dict(outcome.refused),
        "database": integrity,
    }


def check_database(spool: Path) -> str:
    with closing(sqlite3.connect(f"file:{spool}/spool.sqlite3?mode=ro", uri=True)) as database:
        return str(database.execute("PRAGMA integrity_check").fetchone()[0])


def full_disk(bundle: Path) -> dict[str, Any] | str:
    """Send more than a small disk can hold, kill the node, and fill the rest of the disk.

    Returns:
        The result, or why it could not run: only root can mount a disk.
    """
    with tempfile.TemporaryDirectory() as place:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", place], capture_output=True
        )
        if mounted.returncode:
            return "a tmpfs cannot be mounted here"
        try:
            return _full_disk(bundle, Path(place))
        finally:
            subprocess.run(["umount", "-l", place], check=True)


def _full_disk(bundle: Path, place: Path) -> dict[str, Any]:
    series = make_series(6, 25, side=512, counted=0)
    pacs = Pacs()
    with node(bundle, place, pacs, "--quiet", "5") as process, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, process.port, series, 6)
        wait_for(lambda: "refused with A700" in process.text(), "the disk is full")
        process.kill()
        process.start()
        ballast = place / "ballast"
        free = os.statvfs(place)
        with ballast.open("wb") as file:  # like another program
            file.write(b"\0" * max(free.f_bavail * free.f_bsize - 2**16, 0))
        time.sleep(10)
        ballast.unlink()
        outcome = sending.result()
        wait_for(all_scored(pacs, series), "every slice is in a report")
        integrity = check_database(place / "spool")
        postponed = process.text().count("not scored yet")
    pacs.stop()
    return tally(pacs, series) | {
        "refused": dict(outcome.refused),
        "postponed": postponed,
        "database": integrity,
    }


def nonsense(bundle: Path, cases: int) -> dict[str, Any]:
    """Send random data sets and PDUs. After each, the node must answer an echo."""
    pacs = Pacs()
    with tempfile.TemporaryDirectory() as place, node(bundle, Path(place), pacs) as process:
        pid = process.pid
        answers = play_all(process.port, cases)
        assert process.process is not None and process.process.poll() is None and process.pid == pid
        size = resident(pid)
    pacs.stop()
    return {
        "cases": cases,
        "accepted": sum(counts["accepted"] for counts in answers.values()),
        "resident_bytes": size,
        "kinds": {kind: dict(counts) for kind, counts in answers.items()},
    }


def cost(bundle: Path, slices: int, repeats: int) -> dict[str, Any]:
    """Compare the process time of the node with that of scoring the same files."""
    import pydicom

    from clinreadnet.data.slices import find_slices
    from clinreadnet.dicom import sources, structured_report
    from clinreadnet.runtime import Session
    from clinreadnet.scoring.run import score_slices

    pacs = Pacs()
    alone, through = [], []
    with (
        tempfile.TemporaryDirectory() as place,
        Session(bundle, "onnxruntime-cpu") as session,
        node(bundle, Path(place), pacs) as process,
    ):
        for repeat in range(repeats + 1):
            folder = Path(place) / f"series-{repeat}"
            folder.mkdir()
            paths = [
                write_ct(
                    folder / f"{i:03d}.dcm",
                    noise(1000 * repeat + i),
                    SeriesInstanceUID=f"1.2.3.{repeat}",
                    ImagePositionPatient=[0, 0, i],
                    NumberOfSeriesRelatedInstances=slices,
                )
                for i in range(slices)
            ]
            sent = []
            for path in paths:
                dataset = pydicom.dcmread(path)
                sent.append(Sent(str(dataset.SOPInstanceUID), encoded(dataset)))
            start = time.process_time()
            refs = find_slices([folder], keep=sources.SOURCE_TAGS)
            headers = sources.make_sources(refs)
            report = score_slices(session, refs)
            structured_report.write_reports(
                report, headers, session.describe(), folder.with_suffix(".sr")
            )
            seconds = time.process_time() - start
            before, count = _cpu(process.pid), len(pacs.received)
            send(process.port, [sent], 1)
            wait_for(lambda count=count: len(pacs.received) > count, "the report is sent")
            time.sleep(0.5)
            if repeat:  # the first run is a warm-up
                alone.append(seconds)
                through.append(_cpu(process.pid) - before)
    pacs.stop()
    return {
        "slices": slices,
        "repeats": repeats,
        "score_seconds": [round(value, 2) for value in alone],
        "node_seconds": [round(value, 2) for value in through],
        "overhead_percent": round(100 * (np.median(through) / np.median(alone) - 1), 1),
    }


def _cpu(pid: int) -> float:
    """Return the CPU time of a process and its threads in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
