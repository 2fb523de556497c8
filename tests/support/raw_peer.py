"""A DICOM peer that sends raw bytes, also those that no library would send."""

from __future__ import annotations

import socket
import struct
from typing import Self

from support.dicom_files import CT

VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
ASSOCIATE, ACCEPT, REJECT, DATA, RELEASE, RELEASED, ABORT = range(1, 8)
_PDV = 60_000  # bytes of a data set in one PDU
_NO_DATA_SET = 0x0101
_C_STORE, _C_ECHO = 0x0001, 0x0030


def pdu(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body) if length is None else length) + body


def associate_request(
    title: str = "CT1", called: str = "CLINREADNET", sop_class: str = CT, syntax: str = EXPLICIT
) -> bytes:
    """Return an A-ASSOCIATE-RQ: context 1 is Verification, context 3 the class."""

    def item(kind: int, body: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(body)) + body

    def context(number: int, abstract: str, transfer: str) -> bytes:
        names = item(0x30, abstract.encode()) + item(0x40, transfer.encode())
        return item(0x20, bytes([number, 0, 0, 0]) + names)

    user = item(0x51, struct.pack(">L", 2**16)) + item(0x52, b"1.2.826.0.1.3680043.8.498.9")
    body = struct.pack(">HH", 1, 0) + called.ljust(16).encode() + title.ljust(16).encode()
    body += bytes(32) + item(0x10, b"1.2.840.10008.3.1.1.1")
    body += context(1, VERIFICATION, IMPLICIT) + context(3, sop_class, syntax)
    return pdu(ASSOCIATE, body + item(0x50, user))


def command(field: int, sop_class: str, *, instance: str = "", number: int = 1) -> bytes:
    """Return the command set of a request."""

    def element(tag: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, tag, len(value)) + value

    def uid(text: str) -> bytes:
        return text.encode() + b"\0" * (len(text) % 2)

    def short(value: int) -> bytes:
        return struct.pack("<H", value)

    body = element(0x0002, uid(sop_class)) + element(0x0100, short(field))
    body += element(0x0110, short(number))
    if instance:
        body += element(0x0700, short(0)) + element(0x0800, short(1))
        body += element(0x1000, uid(instance))
    else:
        body += element(0x0800, short(_NO_DATA_SET))
    return element(0, struct.pack("<L", len(body))) + body


def pdv(context: int, flags: int, body: bytes) -> bytes:
    return struct.pack(">LBB", len(body) + 2, context, flags) + body


class RawPeer:
    """A connection to a node."""

    def __init__(self, port: int, *, timeout: float = 60.0) -> None:
        self._link = socket.create_connection(("127.0.0.1", port), timeout)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._link.close()

    def send(self, content: bytes) -> None:
        self._link.sendall(content)

    def end(self) -> None:
        """Close the sending side."""
        self._link.shutdown(socket.SHUT_WR)

    def read(self) -> tuple[int, bytes] | None:
        """Return the kind and the body of the next PDU; None if the connection was closed."""
        try:
            head = self._read(6)
            if head is None:
                return None
            kind, length = head[0], int.from_bytes(head[2:], "big")
            body = self._read(length)
        except ConnectionError:
            return None
        return None if body is None else (kind, body)

    def _read(self, size: int) -> bytes | None:
        parts, left = [], size
        while left:
            part = self._link.recv(min(left, 2**16))
            if not part:
                return None
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def associate(self, **options: str) -> bool:
        self.send(associate_request(**options))
        answer = self.read()
        return answer is not None and answer[0] == ACCEPT

    def release(self) -> None:
        self.send(pdu(RELEASE, bytes(4)))
        self.read()

    def echo(self) -> int | None:
        self.send(pdu(DATA, pdv(1, 3, command(_C_ECHO, VERIFICATION))))
        return self.status()

    def store(self, instance: str, content: bytes, *, sop_class: str = CT) -> int | None:
        """Send a data set and return the status; None if the association was ended instead."""
        self._number = self._number % 65535 + 1
        request = command(_C_STORE, sop_class, instance=instance, number=self._number)
        try:
            self.send(pdu(DATA, pdv(3, 3, request)))
            starts = range(0, max(len(content), 1), _PDV)
            for start in starts:
                last = 2 if start == starts[-1] else 0
                self.send(pdu(DATA, pdv(3, last, content[start : start + _PDV])))
        except ConnectionError:
            return None
        return self.status()

    def status(self) -> int | None:
        """Return the status of the next response; None if it is an abort or the end."""
        answer = self.read()
        if answer is None or answer[0] != DATA:
            return None
        place = answer[1].find(struct.pack("<HHL", 0, 0x0900, 2))
        assert place >= 0, "a response without a status"
        return int(struct.unpack_from("<H", answer[1], place + 8)[0])
