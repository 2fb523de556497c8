"""Send objects to a DICOMweb service by STOW-RS (DICOM PS3.18, 10.5).

A request holds one object, so that the answer is about that object.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

from clinreadnet import limits
from clinreadnet.node.config import DicomWeb
from clinreadnet.node.send import Unreachable, connection_problem
from clinreadnet.node.spool import Outgoing

IDLE_SECONDS = 60.0  # without a byte from the service
EXCHANGE_SECONDS = 120.0  # for a request and its answer, beside the time for the object
LEAST_RATE = 20_000  # bytes in a second
_CHUNK = limits.MIB
_FAILED, _REASON = "00081198", "00081197"  # FailedSOPSequence, FailureReason
_OF_THE_OBJECT = range(400, 500)
_OF_THE_SERVICE = {
    *(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED),
    *(HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED),
    *(HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS),
}


class Stow:
    """Sends objects to a DICOMweb service. It follows no redirection."""

    def __init__(self, destination: DicomWeb, context: ssl.SSLContext | None) -> None:
        """Create the channel; nothing is sent yet.

        Args:
            destination: the service.
            context: TLS context; None for that of the system, with its authorities.
        """
        url = urlsplit(destination.url)
        assert url.hostname is not None  # `parse_destination`
        self._host, self._port, self._path = url.hostname, url.port, f"{url.path}/studies"
        self._headers = {"Accept": "application/dicom+json"}
        if destination.authorization is not None:
            self._headers["Authorization"] = destination.authorization
        self._context = None
        if destination.secure:
            self._context = context or ssl.create_default_context()

    def store(self, items: Sequence[Outgoing]) -> Iterator[tuple[Outgoing, str | None]]:
        """Send each object in a request of its own, see `Channel.store`."""
        for item in items:
            status, answer = self._post(item)
            yield item, _refusal(status, answer)

    def _post(self, item: Outgoing) -> tuple[int, bytes]:
        """Send an object and return the status and the body of the answer."""
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        related = f'multipart/related; type="application/dicom"; boundary={boundary}'
        with item.path.open("rb") as file:
            size = len(head) + os.fstat(file.fileno()).st_size + len(tail)
            headers = {"Content-Type": related, "Content-Length": str(size), **self._headers}
            try:
                with self._connection(EXCHANGE_SECONDS + size / LEAST_RATE) as connection:
                    body = chain([head], iter(lambda: file.read(_CHUNK), b""), [tail])
                    # A service may refuse an object, answer and close before it has read all of it.
                    with suppress(BrokenPipeError, ConnectionResetError):
                        connection.request("POST", self._path, body, headers)
                    answer = connection.getresponse()
                    return answer.status, answer.read(limits.STOW_ANSWER + 1)
            except http.client.RemoteDisconnected:
                raise Unreachable("it closed the connection without an answer") from None
            except http.client.HTTPException:
                raise Unreachable("its answer is not HTTP") from None
            except OSError as error:
                raise Unreachable(connection_problem(error)) from None

    @contextmanager
    def _connection(self, seconds: float) -> Iterator[http.client.HTTPConnection]:
        """Connect to the service; after some seconds the connection is cut.

        The timeout of a socket is for each of its calls, so that a service that sends a byte now
        and then would never reach it.

        Raises:
            Unreachable: the connection was cut.
        """
        kind = http.client.HTTPConnection
        connection = (kind if self._context is None else http.client.HTTPSConnection)(
            self._host, self._port, timeout=IDLE_SECONDS
        )
        kind.connect(connection)  # HTTPSConnection.connect would wait for the handshake
        if self._context is not None:
            connection.sock = self._context.wrap_socket(
                connection.sock, server_hostname=self._host, do_handshake_on_connect=False
            )
        channel: socket.socket = connection.sock
        late = threading.Event()

        def cut() -> None:
            late.set()
            with suppress(OSError):
                # SSLSocket.shutdown would first turn the encryption off.
                socket.socket.shutdown(channel, socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            if isinstance(channel, ssl.SSLSocket):
                channel.do_handshake()
            yield connection
        finally:
            timer.cancel()
            connection.close()
            if late.is_set():
                raise Unreachable(f"the exchange took more than {seconds:.0f} s") from None


def _refusal(status: int, body: bytes) -> str | None:
    """Return why an object was refused, or None if the service has it.

    Raises:
        Unreachable: the status is not about the object.
    """
    name = f"HTTP {status} {http.client.responses.get(status, '')}".rstrip()
    if status in _OF_THE_SERVICE or not (status // 100 == 2 or status in _OF_THE_OBJECT):
        raise Unreachable(name)
    failed = _failures(body)
    if failed:
        return f"{name}, failure reason {failed[0]}"
    if status == HTTPStatus.OK or (status == HTTPStatus.ACCEPTED and failed is not None):
        return None
    return name


def _failures(body: bytes) -> list[str] | None:
    """Return the reason of each failed object; None if the answer does not say."""
    if len(body) > limits.STOW_ANSWER:
        return None
    try:
        answer: Any = json.loads(body)
        answer = answer[0] if isinstance(answer, list) else answer
        items = answer.get(_FAILED, {}).get("Value", [])
        return [f"{int(item[_REASON]['Value'][0]):04X}" for item in items]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
