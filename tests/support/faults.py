"""Run a command in a child process that is ended, or whose disk fails, at a chosen moment.

A disk of its own is a tmpfs in a mount namespace of the child, so nothing else sees it.

The moments are the events of Python's audit hook that change the current folder: a file that is
opened to be written, a rename, a removal. The fault comes before the event. Children are forked
from a server that has imported what the commands need, so that each takes its own time only.
"""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

_CREATING = {"open", "os.mkdir"}
_CHANGES = {*_CREATING, "os.rename", "os.remove", "os.rmdir", "os.chmod"}
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_SECONDS = 120
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["support.fault_commands", "torch._dynamo", "torch.utils.tensorboard"]
)


@dataclass(frozen=True)
class Fault:
    """A fault of a command.

    Attributes:
        signal: signal that is sent; 0 for none.
        at: number of the event before which it is sent, from 1.
        after: seconds after which it is sent instead.
        full: number of the event from which nothing can be created; 0 for none.
        hide_space: pretend that the disk has space, so that a full disk is noticed late.
        free: put the folder ``out`` on a disk of its own with so many bytes free.
        read_only: put it on a disk that is read-only.
        largest: bytes of the largest file that the process may write; 0 for no limit.
    """

    signal: int = 0
    at: int = 0
    after: float = 0.0
    full: int = 0
    hide_space: bool = False
    free: int | None = None
    read_only: bool = False
    largest: int = 0


@dataclass(frozen=True)
class Ended:
    """The end of a command: its status (negative for a signal), output, events and seconds."""

    status: int
    stdout: str
    stderr: str
    events: int
    seconds: float


def run(command: str, arguments: list[str], folder: Path, fault: Fault = Fault()) -> Ended:
    """Run a command of `support.fault_commands`.

    Args:
        command: a name in ``COMMANDS``.
        arguments: arguments of ``clinreadnet``.
        folder: current folder of the command.
        fault: fault to inject.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given = (command, arguments, str(folder), scratch, fault)
        child = context.Process(target=_child, args=given)
        start_server()
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


def start_server() -> None:
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

        files.FREE_MARGIN = -(2**60)
    _watch(os.path.realpath(folder), events, fault)
    if fault.after:
        timer = threading.Timer(fault.after, os.kill, (os.getpid(), fault.signal))
        timer.daemon = True
        timer.start()
    if fault.largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.largest, fault.largest))
    sys.argv = ["clinreadnet", *arguments]
    own = fault.read_only or fault.free is not None
    with _disk(Path("out").absolute(), Path(scratch), fault) if own else nullcontext():
        cli.main()


_NEW_NAMESPACE = 0x20000  # CLONE_NEWNS
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000


def can_mount() -> bool:
    """Return whether this process may mount a disk in a namespace of its own."""
    child = os.fork()
    if child == 0:
        os._exit(ctypes.CDLL(None).unshare(_NEW_NAMESPACE) != 0)
    return os.waitpid(child, 0)[1] == 0


@contextmanager
def _disk(out: Path, scratch: Path, fault: Fault) -> Iterator[None]:
    """Mount a disk of its own on a folder inside the block. Its files are kept afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = scratch / "disk"
    own.mkdir()
    _call(libc.unshare, _NEW_NAMESPACE)
    _call(libc.mount, b"none", b"/", None, _REC | _PRIVATE, None)
    _call(libc.mount, b"tmpfs", bytes(own), b"tmpfs", 0, b"size=64m")
    inside = shutil.copytree(out, own / "out")
    if fault.free is not None:
        with (own / "filler").open("wb") as filler:
            size = shutil.disk_usage(own).free - fault.free
            os.posix_fallocate(filler.fileno(), 0, size)
    _call(libc.mount, bytes(inside), bytes(out), None, _BIND, None)
    if fault.read_only:
        _call(libc.mount, None, bytes(out), None, _REMOUNT | _BIND | _RDONLY, None)
    try:
        yield
    finally:
        _call(libc.umount2, bytes(out), 0)
        shutil.rmtree(out)
        shutil.copytree(inside, out)


def _call(function: Any, *arguments: Any) -> None:
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _watch(folder: str, events: int, fault: Fault) -> None:
    """Count the changes of a folder and inject the fault."""
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
