"""Send the node's reports and maps until the destination has them."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from clinreadnet.errors import counted
from clinreadnet.node.backoff import jittered
from clinreadnet.node.log import HASH_DIGITS, log
from clinreadnet.node.metrics import Metrics
from clinreadnet.node.spool import Outgoing, Spool

_AT_ONCE = 32


class Unreachable(Exception):
    """The destination takes no object at present. The message is the reason."""


class Channel(Protocol):
    """A way to a destination."""

    def store(self, items: Sequence[Outgoing]) -> Iterator[tuple[Outgoing, str | None]]:
        """Send objects one after the other.

        Yields:
            Each object, and None if the destination has it now, else why it refused the object.

        Raises:
            Unreachable: the rest cannot be sent.
        """
        ...


@dataclass
class Sender:
    """Sends objects to one destination.

    Attributes:
        channel: way to the destination.
        destination: its name in the log.
        spool: spool that holds the objects.
        metrics: metrics of the node.
    """

    channel: Channel
    destination: object
    spool: Spool
    metrics: Metrics
    _failures: int = field(default=0, init=False)
    _not_before: float = field(default=0.0, init=False)

    def send(self) -> bool:
        """Send some of the due objects and return whether there were any."""
        if time.monotonic() < self._not_before:
            return False
        waiting = self.spool.due(_AT_ONCE)
        if not waiting:
            return False
        try:
            for item, refusal in self.channel.store(waiting):
                if refusal is None:
                    self.spool.sent(item)
                    self.metrics.sent.labels("sent").inc()
                    name = f"series {item.series[:HASH_DIGITS]}"
                    log(f"{name}: {item.kind} sent to {self.destination}")
                else:
                    self._postpone(item, refusal)
        except Unreachable as problem:
            self._failures += 1
            seconds = jittered(self._failures)
            self._not_before = time.monotonic() + seconds
            self.metrics.sent.labels("unreachable").inc()
            waits = self.spool.waiting()[0]
            log(
                f"{self.destination} cannot be reached ({problem}): "
                f"{counted(waits, 'object', verb='waits')} in the spool, next attempt in "
                f"{seconds:.0f} s"
            )
            return False
        self._failures = 0
        return True

    def _postpone(self, item: Outgoing, reason: str) -> None:
        seconds = jittered(item.attempts + 1)
        self.spool.postpone(item, seconds)
        self.metrics.sent.labels("refused").inc()
        log(
            f"series {item.series[:HASH_DIGITS]}: {self.destination} refused the {item.kind} "
            f"({reason}); next attempt in {seconds:.0f} s"
        )


def connection_problem(error: OSError) -> str:
    """Return why a connection failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason}"
    return error.strerror or "timed out"
