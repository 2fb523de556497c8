"""A headless Chromium that opens a page and answers a script, over the DevTools protocol.

A pair of pipes (``--remote-debugging-pipe``) carries one JSON object and a zero byte for each
message, so no port, no driver and no package is needed:
https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here (Debian's package `chromium`)"
)

WAIT = 240
"""Seconds that a page gets to answer: a busy machine starts a browser slowly."""
CONSOLE_EVENTS = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
"""Events of whatever a page writes to its console."""


class Tab:
    """One page of a browser.

    ``messages`` holds the events of what the page wrote to its console.
    """

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.messages: list[dict[str, Any]] = []
        self._until = time.monotonic() + WAIT

    def attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, width: int = 1200, scheme: str = "light") -> None:
        """Open a file in a window of ``width`` by 900 pixels, in a light or dark scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.call("Page.navigate", url=path.as_uri())
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or of its promise."""
        result = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select(
                [self._back], [], [], max(self._until - time.monotonic(), 0)
            )
            assert ready, f"the browser gave no answer in {WAIT} s"
            more = os.read(self._back, 2**16)
            assert more, "the browser ended"
            self._rest += more
        message, self._rest = self._rest.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        if answer.get("method") in CONSOLE_EVENTS:
            self.messages.append(answer)
        return answer


@contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """Open a tab of a new browser that keeps its own files in ``profile``."""
    assert CHROMIUM is not None
    pipes = [*os.pipe(), *os.pipe()]
    # The browser reads from descriptor 3 and writes to 4, which our own ends must not hold.
    theirs_in, to, back, theirs_out = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in pipes)
    for fd in pipes:
        os.close(fd)

    def descriptors() -> None:
        os.dup2(theirs_in, 3)
        os.dup2(theirs_out, 4)

    browser = subprocess.Popen(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update"),
            *("--remote-debugging-pipe", f"--user-data-dir={profile}"),
        ],
        pass_fds=(3, 4),
        preexec_fn=descriptors,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        page = Tab(to, back)
        page.attach()
        yield page
    finally:
        os.close(to)
        os.close(back)
        browser.kill()
        browser.wait()
