"""The workers of `simulate`: none outlives its parent, and an interrupt is answered soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

PARENT = """
import sys, time
from functools import partial
from pathlib import Path
from clinreadnet import cli
from clinreadnet.cli import commands
from clinreadnet.files import whole_folder
from clinreadnet.simulator import simulate

def app(standalone_mode):
    with whole_folder(sys.argv[1]) as folder:
        for _ in simulate._in_order(partial(work, folder), range(4), 2):
            pass

def work(folder, item):
    (folder / str(item)).write_text("begun")
    time.sleep(100)

if __name__ == "__main__":
    commands.app = app
    cli.main()
"""


def children(parent: int) -> list[int]:
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
            except OSError:
                continue
            state, owner = status.rsplit(")", 1)[1].split()[:2]
            if int(owner) == parent and state != "Z":
                pids.append(int(entry.name))
    return pids


def alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


def wait(condition: object, seconds: float) -> float:
    """Wait until ``condition()`` holds; return how long it took."""
    start = time.monotonic()
    while not condition():  # type: ignore[operator]
        assert time.monotonic() - start < seconds
        time.sleep(0.02)
    return time.monotonic() - start


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
    ids=["interrupt", "terminate", "kill"],
)
def test_workers_end_with_their_parent(tmp_path: Path, number: int, status: int) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    place = tmp_path / "place"
    place.mkdir()
    parent = subprocess.Popen([sys.executable, script, place / "out"])
    try:
        wait(lambda: len(list(place.glob(".out.*/new/*"))) == 2, 60)
        workers = children(parent.pid)
        assert len(workers) >= 2
        os.kill(parent.pid, number)
        answered = wait(lambda: parent.poll() is not None, 20)
        gone = wait(lambda: not any(map(alive, workers)), 20)
    finally:
        parent.kill()
        parent.wait()
    assert parent.returncode == status
    assert answered + gone < 2
    if number == signal.SIGKILL:  # the next run removes what it left
        from clinreadnet.files import check_output_folder

        check_output_folder(place / "out")
    assert list(place.iterdir()) == []
