"""A command under a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from support import faults

_PROMPT = "$ clinreadnet"
INTERRUPT = b"\x03"
"""What Ctrl-C sends."""


@dataclass(frozen=True)
class Screen:
    """The output of a command and its end.

    Attributes:
        drawn: text that it wrote to the terminal.
        status: exit status; negative for a signal.
        seconds: duration.
        waited: seconds from Ctrl-C to the end, less those in which the command could run and had
            no processor; None without Ctrl-C.
    """

    drawn: str
    status: int
    seconds: float
    waited: float | None

    @property
    def cursor_shown(self) -> bool:
        return self.drawn.rfind("\x1b[?25h") >= self.drawn.rfind("\x1b[?25l")

    @property
    def line_clean(self) -> bool:
        """Return whether the next prompt begins on an empty line."""
        last = self.drawn.rsplit("\n", 1)[-1]
        return not self.drawn or last in ("", "\x1b[?25h") or last.endswith("\x1b[2K")


def fork(
    name: str,
    folder: Path,
    *,
    columns: int = 100,
    environment: Mapping[str, str] | None = None,
    limit: float = 60,
    interrupt_after: float | None = None,
) -> Screen:
    """Run a command of `support.fault_commands` in a process that has imported what it needs.

    Args:
        name: a name in ``COMMANDS`` or ``READERS``.
        folder: current folder, with the command's inputs.
        columns: width of the terminal.
        environment: variables beside the present ones.
        limit: seconds after which the command is killed and AssertionError raised.
        interrupt_after: seconds after which Ctrl-C is typed.
    """
    control, terminal = _open(columns)
    variables = {"TERM": "xterm-256color", **(environment or {})}
    child = faults.context.Process(
        target=_child, args=(name, str(folder), os.ttyname(terminal), variables)
    )
    faults.start_server()
    child.start()
    try:
        return _watch(child.pid, control, limit, interrupt_after, _PROMPT, child)
    finally:
        os.close(control)
        os.close(terminal)


def _child(name: str, folder: str, terminal: str, environment: Mapping[str, str]) -> None:
    from clinreadnet import cli, console
    from clinreadnet.__main__ import interrupted
    from support.fault_commands import COMMANDS, READERS

    os.setsid()
    opened = os.open(terminal, os.O_RDWR)  # becomes the terminal of the new session
    for number in range(3):
        os.dup2(opened, number)
    os.chdir(folder)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, interrupted)  # as until `main` begins
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)
    # It read the environment when it was made, in the server.
    console.console.__init__(file=console.console.file)
    command = {**COMMANDS, **READERS}[name]
    command.stub()
    sys.argv = ["clinreadnet", *command.arguments.split()]
    print(_PROMPT, flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


def _open(columns: int) -> tuple[int, int]:
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    return control, terminal


def run(
    command: Sequence[str],
    folder: Path,
    *,
    columns: int = 100,
    environment: Mapping[str, str] | None = None,
    limit: float = 60,
    interrupt_after: float | None = None,
    interrupt_at: str | None = None,
) -> Screen:
    """Run a command in a folder with the terminal as its standard streams.

    Args:
        command: program and arguments.
        folder: current folder.
        columns: width of the terminal.
        environment: variables beside the present ones.
        limit: seconds after which the command is killed and AssertionError raised.
        interrupt_after: seconds after which Ctrl-C is typed.
        interrupt_at: text that must be drawn before these seconds begin.
    """
    control, terminal = _open(columns)
    child = os.fork()
    if child == 0:
        os.close(control)
        os.login_tty(terminal)
        os.chdir(folder)
        os.environ.update({"TERM": "xterm-256color", **(environment or {})})
        os.execvp(command[0], list(command))
    os.close(terminal)
    try:
        return _watch(child, control, limit, interrupt_after, interrupt_at)
    finally:
        os.close(control)


def _delayed(pid: int) -> float:
    """Return for how many seconds a process could run and had no processor.

    0 after its end, or where the kernel does not count it.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _watch(
    child: int,
    control: int,
    limit: float,
    after: float | None,
    at: str | None,
    process: BaseProcess | None = None,
) -> Screen:
    """Read what a process draws until it ends; ``process`` if it is not a child of this one."""
    start, typed, drawn = time.monotonic(), None, b""
    begun, before, delay = start, 0.0, 0.0
    while (now := time.monotonic()) - start < limit:
        if typed is None and at is not None and at.encode() not in drawn:
            begun = now
        elif after is not None and typed is None and now - begun > after:
            before = _delayed(child)
            os.write(control, INTERRUPT)
            typed = now
        if typed is not None:
            delay = max(delay, _delayed(child) - before)
        ended = process is not None and not process.is_alive()
        if select.select([control], [], [], 0 if ended else 0.02)[0]:
            try:
                drawn += os.read(control, 65536)
            except OSError:  # the last of the terminal's users has ended
                break
        elif ended:
            break
    else:
        os.kill(child, signal.SIGKILL)
        process.join() if process is not None else os.waitpid(child, 0)
        text = drawn.decode(errors="replace")[-2000:]
        raise AssertionError(f"goes on after {limit} s, {len(drawn)} bytes drawn: {text!r}")
    if process is None:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    else:
        process.join()
        assert process.exitcode is not None
        status = process.exitcode
    end = time.monotonic()
    waited = None if typed is None else end - typed - delay
    return Screen(drawn.decode(errors="replace"), status, end - start, waited)


def main(command: Sequence[str]) -> int:
    """Run a command at a terminal and print how it ended; return 1 if its output is unsuitable."""
    screen = run(command, Path(), limit=1800)
    print(screen.drawn[-2000:])
    print(f"status {screen.status}, {screen.seconds:.0f} s, cursor {screen.cursor_shown}")
    return int(screen.status != 0 or not screen.cursor_shown or "Traceback" in screen.drawn)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
