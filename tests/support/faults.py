"""Run a command in a child process that is ended, or whose disk fails, at a chosen moment.

The moments are the events of Python's audit hook that change the current folder: a file that is
opened to be written, a rename, a removal. The fault comes before the event. Children are forked
from a server that has imported what the commands need, so that each takes its own time only.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

_CREATING = {"open", "os.mkdir"}
_CHANGES = {*_CREATING, "os.rename", "os.remove", "os.rmdir", "os.chmod"}
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_SECONDS = 120
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["support.fault_commands"])


@dataclass(frozen=True)
class Fault:
    """What happens to a command.

    Attributes:
        signal: that it gets; 0 for none.
        at: number of the event before which it gets it, from 1.
        after: seconds after which it gets it instead.
        full: number of the event from which on nothing can be created; 0 for none.
        hide_space: pretend that there is plenty of space: a full disk is found late.
    """

    signal: int = 0
    at: int = 0
    after: float = 0.0
    full: int = 0
    hide_space: bool = False


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status (negative for a signal), output, events and seconds."""

    status: int
    stdout: str
    stderr: str
    events: int
    seconds: float


def run(command: str, arguments: list[str], folder: Path, fault: Fault = Fault()) -> Ended:  # noqa: B008
    """Run a command of `support.fault_commands`.

    Args:
        command: a name in ``COMMANDS``.
        arguments: of ``clinreadnet``.
        folder: current folder of the command.
        fault: what happens to it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given = (command, arguments, str(folder), scratch, fault)
        child = _context.Process(target=_child, args=given)
        _start_server()
        start = time.monotonic()
        child.start()
        child.join(_SECONDS)
        if child.is_alive():
            child.kill()
            child.join()
            raise AssertionError(f"{command} goes on for {_SECONDS} seconds: {arguments}")
        seconds = time.monotonic() - start
        stdout, stderr, events = (Path(scratch, name) for name in ("stdout", "stderr", "events"))
        assert child.exitcode is not None
        return Ended(
            child.exitcode,
            stdout.read_text(),
            stderr.read_text(),
            events.stat().st_size,
            seconds,
        )


def _start_server() -> None:
    """Start the server that children are forked from, unless it runs.

    It finds modules by the environment: Python does not give it ``sys.path`` in every release.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _child(command: str, arguments: list[str], folder: str, scratch: str, fault: Fault) -> None:
    from clinreadnet import cli
    from support.fault_commands import COMMANDS

    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(scratch, name), os.O_WRONLY | os.O_CREAT), number)
    events = os.open(Path(scratch, "events"), os.O_WRONLY | os.O_CREAT)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    COMMANDS[command].stub()
    if fault.hide_space:
        from clinreadnet import files

        files._MARGIN = -(2**60)
    _watch(os.path.realpath(folder), events, fault)
    if fault.after:
        timer = threading.Timer(fault.after, os.kill, (os.getpid(), fault.signal))
        timer.daemon = True
        timer.start()
    sys.argv = ["clinreadnet", *arguments]
    cli.main()


def _watch(folder: str, events: int, fault: Fault) -> None:
    """Count the changes of a folder, and let the fault happen."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _CHANGES or isinstance(arguments[0], int):
            return
        if event == "open" and not arguments[2] & _FOR_WRITING:
            return
        path = os.path.join(folder, os.fsdecode(arguments[0]))
        if not path.startswith(folder + os.sep):
            return
        count += 1
        os.write(events, b".")
        if fault.at == count:
            os.kill(os.getpid(), fault.signal)
        if fault.full and count >= fault.full and event in _CREATING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    sys.addaudithook(hook)
