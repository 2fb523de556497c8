"""Send objects by C-STORE."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from clinreadnet.node.config import Destination
from clinreadnet.node.send import Unreachable, connection_problem
from clinreadnet.node.spool import Outgoing

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 60.0
_WARNINGS = range(0xB000, 0xC000)


class Dimse:
    """Sends objects to an application entity."""

    def __init__(
        self, title: str, destination: Destination, context: ssl.SSLContext | None
    ) -> None:
        """Create the channel; nothing is sent yet.

        Args:
            title: AE title of the node.
            destination: destination of the objects.
            context: TLS context, or None for a plain connection.
        """
        self._destination = destination
        self._context = context
        self._entity = AE(ae_title=title)
        self._entity.connection_timeout = _CONNECT_SECONDS
        self._entity.acse_timeout = _ANSWER_SECONDS
        self._entity.dimse_timeout = _ANSWER_SECONDS
        self._entity.network_timeout = _ANSWER_SECONDS

    def store(self, items: Sequence[Outgoing]) -> Iterator[tuple[Outgoing, str | None]]:
        """Send objects over one association, see `Channel.store`."""
        to = self._destination
        try:
            address = socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)[0][4][0]
        except OSError as error:
            raise Unreachable(error.strerror or "no such host") from None
        # pynetdicom gives no reason for a failed connection, so the connection is tested first.
        self._knock(str(address))
        self._entity.requested_contexts = []
        for sop_class in sorted({item.sop_class for item in items}):
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
            raise Unreachable(
                "the association was rejected" if assoc.is_rejected else "no association"
            )
        try:
            for item in items:
                try:
                    status = assoc.send_c_store(item.path).get("Status")
                except ValueError:  # no context was accepted for this class
                    yield item, "its SOP class is not accepted"
                    continue
                except RuntimeError:
                    raise Unreachable("the association was ended") from None
                if status is None:
                    raise Unreachable("no answer to C-STORE")
                stored = status == 0 or status in _WARNINGS
                yield item, None if stored else f"status {status:04X}"
        finally:
            if assoc.is_established:
                assoc.release()

    def _knock(self, address: str) -> None:
        """Test the connection. Unreachable: it fails."""
        to = self._destination
        try:
            with socket.create_connection((address, to.port), _CONNECT_SECONDS) as plain:
                if self._context is not None:
                    with self._context.wrap_socket(plain, server_hostname=to.host):
                        pass
        except OSError as error:
            raise Unreachable(connection_problem(error)) from None
