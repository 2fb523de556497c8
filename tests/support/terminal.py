"""A command under a pseudo-terminal, as a person at a terminal runs it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

INTERRUPT = b"\x03"
"""What Ctrl-C sends."""


@dataclass(frozen=True)
class Screen:
    """What a command drew and how it ended.

    Attributes:
        drawn: everything that it wrote to the terminal.
        status: exit status; negative for a signal.
        seconds: until it ended.
        waited: seconds from Ctrl-C to the end; None without Ctrl-C.
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
        """Whether the prompt that follows begins on an empty line."""
        last = self.drawn.rsplit("\n", 1)[-1]
        return not self.drawn or last in ("", "\x1b[?25h") or last.endswith("\x1b[2K")


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
        interrupt_at: Ctrl-C is typed once this text is drawn.
    """
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
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


def _watch(child: int, control: int, limit: float, after: float | None, at: str | None) -> Screen:
    start, typed, drawn = time.monotonic(), None, b""
    while (now := time.monotonic()) - start < limit:
        due = after is not None and now - start > after or at is not None and at.encode() in drawn
        if due and typed is None:
            os.write(control, INTERRUPT)
            typed = now
        if select.select([control], [], [], 0.02)[0]:
            try:
                drawn += os.read(control, 65536)
            except OSError:  # the last of the terminal's users has ended
                break
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        text = drawn.decode(errors="replace")[-2000:]
        raise AssertionError(f"goes on after {limit} s, {len(drawn)} bytes drawn: {text!r}")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    end = time.monotonic()
    waited = None if typed is None else end - typed
    return Screen(drawn.decode(errors="replace"), status, end - start, waited)
