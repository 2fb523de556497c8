"""pynetdicom's server with limits: on peers, connections, PDUs, messages and memory.

pynetdicom reads a PDU of any length, holds each data set in memory without a limit, waits
indefinitely for the rest of a PDU, and makes the TLS handshake in the thread that accepts
connections. This module limits each of these. A violation is answered with A-ABORT, and an object
that is too large with a C-STORE status.

pynetdicom calls its event handlers only after data were read and decoded, and `AE` limits only the
number of associations and the announced length of a PDU. Parts of an association are therefore
replaced by subclasses, written for the release that `pyproject.toml` pins.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from io import BytesIO
from socketserver import TCPServer
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.fsm import StateMachine
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from clinreadnet import limits

NETWORK_SECONDS = 60.0
"""Longest time for one PDU, and longest pause of an association, in seconds."""

_HANDSHAKE_SECONDS = 10.0


class ReceiveMemory:
    """The memory for the objects that are being received on all associations."""

    def __init__(self, most_bytes: int) -> None:
        """Allow ``most_bytes`` at one time."""
        self._most = most_bytes
        self._taken = 0
        self._mutex = threading.Lock()

    def take(self, size: int) -> bool:
        """Reserve ``size`` bytes; return False if that exceeds the limit."""
        with self._mutex:
            if self._taken + size > self._most:
                return False
            self._taken += size
            return True

    def give(self, size: int) -> None:
        """Release ``size`` bytes."""
        with self._mutex:
            self._taken -= size


class ObjectBuffer(BytesIO):
    """The data set of a message. Nothing is kept of a data set beyond the limit.

    Attributes:
        overflowed: whether the data set did not fit.
    """

    def __init__(self, most_bytes: int, memory: ReceiveMemory) -> None:
        """Accept up to ``most_bytes``, if ``memory`` has them."""
        super().__init__()
        self.overflowed = False
        self._most = most_bytes
        self._memory = memory
        self._held = 0

    def write(self, data: Any) -> int:
        """Keep some bytes, or discard the whole data set if they do not fit."""
        size = len(data)
        if self.overflowed:
            return size
        if self._held + size > self._most or not self._memory.take(size):
            self.overflowed = True
            self.seek(0)
            self.truncate()
            self._give()
            return size
        self._held += size
        return super().write(data)

    def _give(self) -> None:
        self._memory.give(self._held)
        self._held = 0

    def __del__(self) -> None:
        self._give()


class _CommandBuffer(BytesIO):
    def write(self, data: Any) -> int:
        if self.tell() + len(data) > limits.COMMAND:
            raise OverflowError("a command set without an end")
        return super().write(data)


class _BoundedDimse(DIMSEServiceProvider):
    """DIMSE with limits on the command set, the data set and the number of messages.

    pynetdicom raises no event before a message is complete and in memory.
    """

    def __init__(self, assoc: Association, buffer: Callable[[], ObjectBuffer]) -> None:
        super().__init__(assoc)
        self._buffer = buffer

    def receive_primitive(self, primitive: Any) -> None:
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.encoded_command_set = _CommandBuffer()
            self.message.data_set = self._buffer()
        try:
            if self.msg_queue.qsize() >= limits.MESSAGES:
                raise OverflowError("a peer that does not wait for answers")
            super().receive_primitive(primitive)
        except Exception:  # any error of pydicom on a damaged message: the peer gets A-ABORT
            self.message = None
            self.dul.event_queue.put("Evt19")

    def get_msg(self, block: bool = False) -> Any:
        context, message = super().get_msg(block)
        if message is not None and not message.is_valid_request:
            self.dul.event_queue.put("Evt19")
            return None, None
        return context, message


class _Handler(RequestHandler):
    server: BoundedServer

    def _create_association(self) -> Association:
        assoc = super()._create_association()
        assoc.dimse = _BoundedDimse(assoc, self.server.make_buffer)
        assoc.dul.state_machine = _GuardedMachine(assoc.dul)
        link = assoc.dul.socket
        assert link is not None
        # A second socket object would announce a second connection, and mypy refuses to assign a
        # method. Events follow only after a PDU of any length has been read.
        setattr(link, "recv", lambda size: _receive(link, size))  # noqa: B010
        return assoc


class _GuardedMachine(StateMachine):
    """A state machine whose failure always ends its association.

    After a failure the connection is closed. Otherwise pynetdicom's association would wait half a
    minute for a request that cannot arrive any more, and count towards the limit. pynetdicom raises
    no event on such a failure.
    """

    def do_action(self, event: str) -> None:
        try:
            super().do_action(event)
        except Exception:  # an event that is invalid in this state: the peer violated the protocol
            if self.dul.socket is not None:
                self.dul.socket.close()
            self.dul.kill_dul()
        if self.dul._kill_thread:
            # Wakes the association; pynetdicom reads None as "nothing came", and types forget it.
            self.dul.to_user_queue.put(None)  # type: ignore[arg-type]


def _receive(link: AssociationSocket, size: int) -> bytearray:
    """Return the bytes of a PDU or of its head; fewer if the connection ends."""
    if size > limits.PDU:
        pdu = A_ABORT_RQ()
        pdu.source, pdu.reason_diagnostic = 2, 6  # service provider, invalid PDU parameter value
        link.send(bytes(pdu.encode()))
        raise OSError("a PDU that is too long")
    buffer = bytearray(size)
    view, read = memoryview(buffer), 0
    end = time.monotonic() + NETWORK_SECONDS
    assert link.socket is not None
    while read < size:
        got = link.socket.recv_into(view[read:])
        if not got:
            break
        read += got
        if time.monotonic() > end:
            raise TimeoutError("a PDU that does not end")
    view.release()
    del buffer[read:]
    return buffer


class BoundedServer(ThreadedAssociationServer):
    """A server that accepts only admitted peers and makes each handshake in its own thread.

    `AE` limits only associations, which begin after the handshake, and there is no event for a
    connection.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        entity: AE,
        address: tuple[str, int],
        context: ssl.SSLContext | None,
        handlers: list[Any],
        *,
        make_buffer: Callable[[], ObjectBuffer],
        admits: Callable[[str], bool],
        most_connections: int,
        refused: Callable[[str], None],
    ) -> None:
        """Bind the port.

        Args:
            entity: application entity with its title and presentation contexts.
            address: host and port; port 0 selects a free port.
            context: TLS context, or None for plain connections.
            handlers: handlers of pynetdicom's events.
            make_buffer: function that returns a buffer for the data set of a message.
            admits: function that returns whether an address may connect.
            most_connections: largest number of connections, including those without an association
                yet.
            refused: called with the reason when a connection is refused.

        Raises:
            OSError: the port cannot be bound.
        """
        self.make_buffer = make_buffer
        self._admits = admits
        self._most = most_connections
        self._refused = refused
        self._handshakes = 0
        self._mutex = threading.Lock()
        super().__init__(
            entity,
            address,
            entity.ae_title,
            entity.supported_contexts,
            context,
            evt_handlers=handlers,
            request_handler=_Handler,
        )

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; TLS comes later."""
        assert self.socket is not None
        client, address = self.socket.accept()
        client.settimeout(NETWORK_SECONDS)
        return client, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether a connection is accepted."""
        if not self._admits(client_address[0]):
            self._refused("address")
            return False
        with self._mutex:
            if self._handshakes + len(self.active_associations) >= self._most:
                self._refused("connections")
                return False
            self._handshakes += 1
        return True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Make the TLS handshake, then start the association."""
        try:
            if self.ssl_context is not None:
                request.settimeout(_HANDSHAKE_SECONDS)
                request = self.ssl_context.wrap_socket(request, server_side=True)
                request.settimeout(NETWORK_SECONDS)
            self.finish_request(request, client_address)
        except ssl.SSLError as error:
            self._refused(f"TLS: {getattr(error, 'verify_message', '') or error.reason}")
            self.shutdown_request(request)
        except Exception as error:  # this thread serves one peer; the server goes on
            self._refused(type(error).__name__)
            self.shutdown_request(request)
        finally:
            with self._mutex:
                self._handshakes -= 1

    def shutdown(self) -> None:
        """End the associations and close the port; `serve_forever` must be running."""
        for assoc in self.active_associations:
            assoc.abort()
        TCPServer.shutdown(self)  # pynetdicom's would look for a server that `AE` has started
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Record an error without its traceback, which could repeat data of a peer."""
        self._refused("error")
