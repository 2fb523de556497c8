"""`clinreadnet listen` as a process that a test may kill."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

READY = " listens on "
_PATIENCE = 180.0


def free_port() -> int:
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])


class ListenProcess:
    """A process of `clinreadnet listen`. The standard error of every start is appended to a file.

    Attributes:
        port: port of the node, the same after `kill` and `start`.
        log: file of the standard error.
    """

    def __init__(self, bundle: Path, spool: Path, send_to: str, *options: str) -> None:
        self.port = free_port()
        self.log = spool.with_suffix(".log")
        self.command = [
            *(sys.executable, "-m", "clinreadnet.cli", "listen", "--bundle", str(bundle)),
            *("--spool", str(spool), "--send-to", send_to, "--port", str(self.port)),
            *("--backend", "onnxruntime-cpu"),
            *options,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Start it; wait until it listens."""
        start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(self.command, stdout=file, stderr=file)
        end = time.monotonic() + _PATIENCE
        while wait and READY not in self.text(start):
            assert self.process.poll() is None, self.text(start)
            assert time.monotonic() < end, self.text(start)
            time.sleep(0.05)

    def text(self, start: int = 0) -> str:
        return self.log.read_bytes()[start:].decode()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """Send SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
