"""Fixtures of a node with a small bundle and a PACS that it sends to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tiny_bundle import write_bundle

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed: the extra node")
pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

from support.pacs import Pacs

from clinreadnet.errors import visible
from clinreadnet.node import log
from clinreadnet.node.config import Destination, NodeConfig
from clinreadnet.node.node import Node
from clinreadnet.runtime import Session

PATIENCE = 120.0
"""Seconds that something may take on a busy machine."""


@pytest.fixture(autouse=True)
def no_logs_of_the_libraries() -> Iterator[None]:
    """Switch off the logs of libraries, which repeat headers, as `clinreadnet listen` does."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture(scope="session")
def session(bundle: Path) -> Iterator[Session]:
    with Session(bundle, "onnxruntime-cpu", threads=1) as session:
        yield session


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    pacs = Pacs()
    yield pacs
    pacs.stop()


@pytest.fixture
def start(tmp_path: Path, pacs: Pacs, session: Session) -> Iterator[Callable[..., Node]]:
    """Return a function that starts a node; its options are those of NodeConfig."""
    nodes: list[Node] = []

    def start(**options: Any) -> Node:
        given: dict[str, Any] = {
            "title": "CLINREADNET",
            "host": "127.0.0.1",
            "port": 0,
            "spool": tmp_path / "spool",
            "destination": Destination("127.0.0.1", pacs.port, "PACS"),
            "quiet": 1.0,
        }
        node = Node(NodeConfig(**given | options))
        nodes.append(node)
        node.start(session)
        return node

    yield start
    for node in nodes:
        node.stop()


@pytest.fixture
def until() -> Callable[..., None]:
    """Return a function that waits until a condition holds."""

    def until(holds: Callable[[], object], patience: float = PATIENCE) -> None:
        end = time.monotonic() + patience
        while not holds():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.05)

    return until


@pytest.fixture
def logged(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    until: Callable[..., None],
) -> Callable[[str], str]:
    """Return a function that waits until the node's log contains a text.

    It returns the log, and what else was written to standard error. The node logs in threads of its
    own, a moment after its peer has seen the effect. While `capfd` is read it can lose a line that
    another thread writes, so the lines of the log are kept apart.
    """
    lines: list[str] = []
    monkeypatch.setattr(log, "note", lambda line: lines.append(visible(line)))

    def logged(text: str) -> str:
        try:
            until(lambda: any(text in line for line in lines))
        except AssertionError:
            raise AssertionError("\n".join([f"{text!r} is not in the log:", *lines])) from None
        return "\n".join([*lines, capfd.readouterr().err])

    return logged
