"""A node: the receiver, the worker that scores and the sender, each in its own thread."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from clinreadnet.errors import BackendError, DeviceLost, SessionClosed, first_line, origin
from clinreadnet.node.backoff import pause
from clinreadnet.node.config import DicomWeb, NodeConfig
from clinreadnet.node.dimse import Dimse
from clinreadnet.node.log import HASH_DIGITS, log
from clinreadnet.node.metrics import Metrics, Monitor
from clinreadnet.node.receive import Receiver
from clinreadnet.node.send import Sender
from clinreadnet.node.spool import Series, Spool
from clinreadnet.node.stow import Stow
from clinreadnet.node.tls import client_context, server_context
from clinreadnet.node.work import Worker
from clinreadnet.runtime import Session

_TICK = 0.25  # seconds between two checks of the spool
PAUSE_SECONDS = 2.0  # seconds after an error of the disk
STOP_SECONDS = 5.0  # seconds in which the threads must end
_CARE = 600.0  # seconds between two searches for expired objects


class Node:
    """A DICOM node that receives, scores and sends between `start` and `stop`.

    Attributes:
        spool: spool of the node.
        metrics: metrics of the node.
        port: port on which the node listens.
        metrics_port: port of ``/healthz`` and ``/metrics``, or None.
    """

    def __init__(self, config: NodeConfig) -> None:
        """Open the spool and the ports; connections wait until `start`.

        Raises:
            InputError: the spool, a port or a TLS file cannot be used.
        """
        self._config = config
        self.metrics = Metrics()
        receiving = None if config.tls is None else server_context(config.tls)
        sending = client_context(config.tls) if config.tls and config.send_tls else None
        self.spool = Spool(
            config.spool, most_bytes=config.spool_bytes, most_objects=config.spool_objects
        )
        self._monitor: Monitor | None = None
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._next_care = 0.0
        self._scoring: Series | None = None
        self._failure: BaseException | None = None
        self._stopped = False
        try:
            self._receiver = Receiver(config, self.spool, self.metrics, receiving)
        except BaseException:
            self.spool.close(remove_unused=True)
            raise
        self.metrics.watch(self._state)
        if config.metrics_port is not None:
            try:
                self._monitor = Monitor(config.metrics_port, self.metrics, self.problem)
            except BaseException:
                self.stop()
                raise
        channel = (
            Stow(config.destination, sending)
            if isinstance(config.destination, DicomWeb)
            else Dimse(config.title, config.destination, sending)
        )
        self._sender = Sender(channel, config.destination, self.spool, self.metrics)
        self.port = self._receiver.port
        self.metrics_port = None if self._monitor is None else self._monitor.port

    def start(self, session: Session) -> None:
        """Start to receive, to score with ``session`` and to send.

        Raises:
            InputError: the site map was fitted for other weights, or figures are limited that are
                not measured.
        """
        weights = session.manifest.model.weights_sha256
        self._config.rules.check(figures=self._config.figures, weights_sha256=weights)
        self.spool.resume()
        worker = Worker(session, self.spool, self.metrics, self._config)
        for name, work in (
            ("receiver", self._receiver.serve),
            ("worker", lambda: self._repeat(lambda: self.score_next(worker))),
            ("sender", lambda: self._repeat(lambda: self._survive(self._send))),
        ):
            thread = threading.Thread(target=self._guard, args=(work,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the node fails, or for at most ``seconds``.

        Raises:
            BackendError: the GPU was lost. The spool is intact.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while not self._stopping.wait(_TICK):
            if end is not None and time.monotonic() > end:
                return
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End the associations and the threads without waiting for a series to be scored.

        If the node has not started, a spool folder that it created is removed.
        """
        self._stopping.set()
        if self._stopped:
            return
        self._stopped = True
        if self._threads:
            self._receiver.stop()
        else:
            self._receiver.close()
        if self._monitor is not None:
            self._monitor.stop()
        end = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0.0))
        if self._scoring is not None and self._failure is None:
            with suppress(sqlite3.Error):
                self.spool.release(self._scoring)
        if not any(thread.is_alive() for thread in self._threads):
            self.spool.close(remove_unused=not self._threads)

    def score_next(self, worker: Worker) -> bool:
        """Score the complete series that has waited longest; return whether there was one.

        Raises:
            DeviceLost: the GPU was lost, and the node cannot go on.
        """
        return self._survive(lambda: self._score(worker))

    def remove_old(self) -> None:
        """Remove reports and set-aside series that are older than the node keeps them."""
        for lost in self.spool.expire_outgoing(self._config.keep_days):
            self.metrics.sent.labels("expired").inc()
            log(
                f"series {lost.series[:HASH_DIGITS]}: the {lost.kind} could not be sent for "
                f"{self._config.keep_days:g} days and is removed"
            )
        for key in self.spool.expire_aside(self._config.keep_days):
            log(
                f"series {key[:HASH_DIGITS]}: was set aside for {self._config.keep_days:g} days "
                "and is removed"
            )

    def problem(self) -> str | None:
        """Return the problem of the node, or None if it is healthy."""
        if not self._threads:
            return "starting"
        dead = [thread.name for thread in self._threads if not thread.is_alive()]
        return f"not running: {', '.join(dead)}" if dead else None

    def __enter__(self) -> Self:
        """Return the node; leaving the block stops it."""
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _state(self) -> dict[str, float]:
        count, oldest = self.spool.waiting()
        return self.spool.counts() | {
            "outgoing": count,
            "outgoing_oldest_seconds": oldest,
            "associations": self._receiver.associations,
        }

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            if not self._stopping.is_set():
                self._failure = error
                self._stopping.set()

    def _repeat(self, work: Callable[[], bool]) -> None:
        while not self._stopping.is_set():
            if not work():
                self._stopping.wait(_TICK)

    def _survive(self, work: Callable[[], bool]) -> bool:
        """Do some work and return whether there was any. Only the loss of the GPU ends the node."""
        try:
            return work()
        except DeviceLost:  # every later call fails too: the node ends and is restarted
            raise
        except Exception as error:
            with suppress(Exception):
                log(f"unexpected error ({origin(error)})", kind="error")
            self._stopping.wait(PAUSE_SECONDS)
            return False

    def _score(self, worker: Worker) -> bool:
        try:
            series = self.spool.claim(self._config.quiet)
        except Exception as error:
            reason = first_line(error) if isinstance(error, sqlite3.Error) else origin(error)
            log(f"the spool cannot be used ({reason})", kind="spool")
            self._stopping.wait(PAUSE_SECONDS)
            return False
        self._scoring = series
        if series is None:
            return False
        try:
            worker.score(series)
        except DeviceLost:
            raise
        except SessionClosed:
            self.spool.release(series)
            return False
        except Exception as error:  # one of LATER, or the series could not even be set aside
            self.metrics.series.labels("postponed").inc()
            reason = first_line(error) if isinstance(error, BackendError) else origin(error)
            log(
                f"series {series.key[:HASH_DIGITS]}: not scored yet ({reason}); next attempt in "
                f"{pause(series.attempts - 1):.0f} s"
            )
            self.spool.release(series)
        self._scoring = None
        return True

    def _send(self) -> bool:
        try:
            if time.monotonic() > self._next_care:
                self._next_care = time.monotonic() + _CARE
                self.remove_old()
            return self._sender.send()
        except Exception as error:
            log(f"nothing can be sent now ({origin(error)})", kind="send")
            self._stopping.wait(PAUSE_SECONDS)
            return False
