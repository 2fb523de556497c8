"""Send the node's reports and maps by C-STORE until the destination has them."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from clinreadnet.node.backoff import jittered
from clinreadnet.node.config import Destination
from clinreadnet.node.log import HASH_DIGITS, log
from clinreadnet.node.metrics import Metrics
from clinreadnet.node.spool import Outgoing, Spool

_AT_ONCE = 32
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 60.0
_WARNINGS = range(0xB000, 0xC000)


class Sender:
    """Sends objects to one destination."""

    def __init__(
        self,
        title: str,
        destination: Destination,
        spool: Spool,
        metrics: Metrics,
        context: ssl.SSLContext | None,
    ) -> None:
        """Create the sender; nothing is sent yet.

        Args:
            title: AE title of the node.
            destination: destination of the objects.
            spool: spool that holds the objects.
            metrics: metrics of the node.
            context: TLS context, or None for a plain connection.
        """
        self._destination = destination
        self._spool = spool
        self._metrics = metrics
        self._context = context
        self._failures = 0
        self._not_before = 0.0
        self._entity = AE(ae_title=title)
        self._entity.connection_timeout = _CONNECT_SECONDS
        self._entity.acse_timeout = _ANSWER_SECONDS
        self._entity.dimse_timeout = _ANSWER_SECONDS
        self._entity.network_timeout = _ANSWER_SECONDS

    def send(self) -> bool:
        """Send some of the due objects and return whether there were any."""
        if time.monotonic() < self._not_before:
            return False
        waiting = self._spool.due(_AT_ONCE)
        if not waiting:
            return False
        problem = self._send(waiting)
        if problem is None:
            self._failures = 0
            return True
        self._failures += 1
        seconds = jittered(self._failures)
        self._not_before = time.monotonic() + seconds
        self._metrics.sent.labels("unreachable").inc()
        log(
            f"{self._destination} cannot be reached ({problem}): {self._spool.waiting()[0]} "
            f"objects wait in the spool, next attempt in {seconds:.0f} s"
        )
        return False

    def _send(self, waiting: Sequence[Outgoing]) -> str | None:
        """Send objects and return the problem of the destination, or None."""
        to = self._destination
        try:
            address = socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)[0][4][0]
        except OSError as error:
            return error.strerror or "no such host"
        # pynetdicom gives no reason for a failed connection, so the connection is tested first.
        if (reason := self._knock(str(address))) is not None:
            return reason
        self._entity.requested_contexts = []
        for sop_class in sorted({item.sop_class for item in waiting}):
            self._entity.add_requested_context(
                sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
            )
        assoc = self._entity.associate(
            str(address),
            to.port,
            ae_title=to.title,
            tls_args=None if self._context is None else (self._context, to.host),
        )
        if not assoc.is_established:
            return "the association was rejected" if assoc.is_rejected else "no association"
        try:
            for item in waiting:
                try:
                    answer = assoc.send_c_store(item.path)
                except ValueError:  # no context was accepted for this class
                    self._postpone(item, "its SOP class is not accepted")
                    continue
                except RuntimeError:
                    return "the association was ended"
                status = answer.get("Status")
                if status is None:
                    return "no answer to C-STORE"
                if status == 0 or status in _WARNINGS:
                    self._spool.sent(item)
                    self._metrics.sent.labels("sent").inc()
                    log(f"series {item.series[:HASH_DIGITS]}: {item.kind} sent to {to}")
                else:
                    self._postpone(item, f"status {status:04X}")
        finally:
            if assoc.is_established:
                assoc.release()
        return None

    def _knock(self, address: str) -> str | None:
        """Test the connection and return the reason why it fails, or None."""
        to = self._destination
        try:
            with socket.create_connection((address, to.port), _CONNECT_SECONDS) as plain:
                if self._context is not None:
                    with self._context.wrap_socket(plain, server_hostname=to.host):
                        pass
        except ssl.SSLCertVerificationError as error:
            return f"TLS: {error.verify_message}"
        except ssl.SSLError as error:
            return f"TLS: {error.reason}"
        except OSError as error:
            return error.strerror or "timed out"
        return None

    def _postpone(self, item: Outgoing, reason: str) -> None:
        seconds = jittered(item.attempts + 1)
        self._spool.postpone(item, seconds)
        self._metrics.sent.labels("refused").inc()
        log(
            f"series {item.series[:HASH_DIGITS]}: {self._destination} refused the {item.kind} "
            f"({reason}); next attempt in {seconds:.0f} s"
        )
