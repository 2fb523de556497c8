"""A DICOMweb service for tests of STOW-RS: it keeps what it is sent."""

from __future__ import annotations

import email
import json
import ssl
import threading
from collections.abc import Mapping
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, Self

import pydicom
from pydicom.dataset import Dataset

STORED: dict[str, Any] = {"00081199": {"vr": "SQ", "Value": []}}


def failed(reason: int) -> dict[str, Any]:
    """Return an answer that says why an object failed."""
    item = {"00081197": {"vr": "US", "Value": [reason]}}
    return {"00081198": {"vr": "SQ", "Value": [item]}}


class DicomWebService:
    """Answers on 127.0.0.1.

    Attributes:
        port: port of the service.
        received: data sets of the requests that were read.
        headers: header lines of each request.
        paths: path of each request.
        answers: status, body and header lines of the next answers. Later answers are 200.
        reads: whether it reads a request before it answers and closes.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.received: list[Dataset] = []
        self.headers: list[Mapping[str, str]] = []
        self.paths: list[str] = []
        self.answers: list[tuple[int, Any, dict[str, str]]] = []
        self.reads = True
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                service.headers.append(dict(self.headers))
                service.paths.append(self.path)
                if service.reads:
                    body = self.rfile.read(int(self.headers["Content-Length"]))
                    service.received += parts(self.headers["Content-Type"], body)
                status, answer, more = (service.answers or [(200, STORED, {})])[0]
                del service.answers[:1]
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def parts(content_type: str, body: bytes) -> list[Dataset]:
    """Read the data sets of a multipart request with the parser of electronic mail."""
    head = f"Content-Type: {content_type}\r\nMIME-Version: 1.0\r\n\r\n".encode()
    message = email.message_from_bytes(head + body, policy=HTTP)
    assert message.get_content_type() == "multipart/related"
    assert message.get_param("type") == "application/dicom" and not message.defects
    datasets: list[Dataset] = []
    for part in message.iter_parts():
        assert part.get_content_type() == "application/dicom"
        datasets.append(pydicom.dcmread(BytesIO(part.get_payload(decode=True))))
    return datasets
