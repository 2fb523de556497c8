"""Sending reports to a DICOMweb service, and services that do not accept them."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
import pytest
from support.dicom_files import make_ct, noise
from support.dicom_web import STORED, DicomWebService, failed
from support.pacs import REPORT, connect, referenced

from clinreadnet import limits
from clinreadnet.errors import InputError
from clinreadnet.node import stow
from clinreadnet.node.config import (
    DicomWeb,
    authorize,
    parse_destination,
)
from clinreadnet.node.node import Node
from clinreadnet.node.send import Unreachable
from clinreadnet.node.spool import Outgoing
from clinreadnet.node.stow import Stow

Start = Callable[..., Node]
Until = Callable[..., None]
Logged = Callable[[str], str]


@pytest.fixture
def service() -> Iterator[DicomWebService]:
    with DicomWebService() as service:
        yield service


@pytest.fixture
def item(tmp_path: Path) -> Outgoing:
    """Return an object of more than a chunk that contains bytes of a part's end."""
    ds = make_ct(noise(), SOPClassUID=REPORT)
    ds.PixelData = (b"\r\n--\r\n\r\n" + bytes(range(256))) * 12000
    ds.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    uid = str(ds.SOPInstanceUID)
    return Outgoing(1, "0" * 64, "report", tmp_path / "report.dcm", REPORT, uid, 0)


def base(service: DicomWebService) -> str:
    return f"http://127.0.0.1:{service.port}/dicom-web"


def send(service: DicomWebService, item: Outgoing, **options: Any) -> str | None:
    ((sent, refusal),) = Stow(DicomWeb(base(service), **options), None).store([item])
    assert sent is item
    return refusal


def store_one(node: Node, context: ssl.SSLContext | None = None) -> str:
    ds = make_ct(noise())
    assoc = connect(node.port, context=context)
    assert assoc.send_c_store(ds).Status == 0
    assoc.release()
    return str(ds.SOPInstanceUID)


def test_a_service_gets_the_report_of_a_series(
    start: Start, service: DicomWebService, until: Until, logged: Logged
) -> None:
    node = start(destination=parse_destination(base(service) + "/"))
    uid = store_one(node)
    log = logged(f"report sent to {base(service)}")
    assert "cannot be reached" not in log
    (report,) = service.received
    assert report.SOPClassUID == REPORT and referenced(report) == [uid]
    assert service.paths == ["/dicom-web/studies"]
    until(lambda: node.spool.waiting()[0] == 0)


def test_a_report_that_a_service_refuses_waits_and_is_sent_again(
    start: Start, service: DicomWebService, logged: Logged
) -> None:
    service.answers = [(409, failed(0xA700), {}), (503, b"", {})]
    store_one(start(destination=DicomWeb(base(service))))
    log = logged("report sent to")
    assert "refused the report (HTTP 409 Conflict, failure reason A700); next attempt in" in log
    assert "cannot be reached (HTTP 503 Service Unavailable): 1 object waits" in log
    assert len({report.SOPInstanceUID for report in service.received}) == 1


def test_an_object_arrives_byte_for_byte(service: DicomWebService, item: Outgoing) -> None:
    assert send(service, item) is None
    (received,) = service.received
    assert received == pydicom.dcmread(item.path)
    (headers,) = service.headers
    assert headers["Accept"] == "application/dicom+json" and "Authorization" not in headers


def test_each_object_is_a_request(service: DicomWebService, item: Outgoing) -> None:
    service.answers = [(200, STORED, {}), (409, failed(0xC000), {}), (200, STORED, {})]
    outcomes = [refusal for _, refusal in Stow(DicomWeb(base(service)), None).store([item] * 3)]
    assert [outcome is None for outcome in outcomes] == [True, False, True]


def test_credentials_are_sent_and_not_shown(service: DicomWebService, item: Outgoing) -> None:
    assert send(service, item, authorization="Bearer secret") is None
    assert service.headers[0]["Authorization"] == "Bearer secret"
    destination = DicomWeb(base(service), "Bearer secret")
    assert "secret" not in f"{destination} {destination!r}"


@pytest.mark.parametrize(
    ("status", "body", "refusal"),
    [
        (200, STORED, None),
        (200, b"", None),
        (200, b"<NativeDicomModel/>", None),
        (200, [STORED], None),
        (200, failed(0x0122), "HTTP 200 OK, failure reason 0122"),
        (200, [failed(0x0122)], "HTTP 200 OK, failure reason 0122"),
        (202, STORED, None),
        (202, failed(0xA900), "HTTP 202 Accepted, failure reason A900"),
        (202, b"", "HTTP 202 Accepted"),
        (202, b"[" * 10**5, "HTTP 202 Accepted"),
        (202, b" " * (limits.STOW_ANSWER + 9) + b"{}", "HTTP 202 Accepted"),
        (204, b"", "HTTP 204 No Content"),
        (400, b"", "HTTP 400 Bad Request"),
        (409, failed(0xA700), "HTTP 409 Conflict, failure reason A700"),
        (409, {"00081198": {"Value": [{}]}}, "HTTP 409 Conflict"),
        (415, b"no", "HTTP 415 Unsupported Media Type"),
        (499, b"no", "HTTP 499"),
    ],
)
def test_what_an_answer_says_of_the_object(
    service: DicomWebService, item: Outgoing, status: int, body: Any, refusal: str | None
) -> None:
    service.answers = [(status, body, {})]
    assert send(service, item) == refusal


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404, 405, 429, 500, 502, 503])
def test_a_status_of_the_service_stops_sending(
    service: DicomWebService, item: Outgoing, status: int
) -> None:
    service.answers = [(status, b"", {"Location": f"{base(service)}/elsewhere"})]
    with pytest.raises(Unreachable, match=f"^HTTP {status} [A-Z]"):
        send(service, item, authorization="Bearer secret")
    assert service.paths == ["/dicom-web/studies"]  # it does not follow


def test_a_service_may_answer_before_it_has_read_the_object(
    service: DicomWebService, item: Outgoing
) -> None:
    service.reads = False
    service.answers = [(413, b"", {})]
    try:
        assert send(service, item) == f"HTTP 413 {http.client.responses[413]}"
    except Unreachable as problem:  # the reset overtook the answer
        assert str(problem) in ("Connection reset by peer", "Broken pipe")


def test_a_service_that_is_not_there(item: Outgoing) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    channel = Stow(DicomWeb(f"http://127.0.0.1:{port}"), None)
    with pytest.raises(Unreachable, match="^Connection refused$"):
        list(channel.store([item]))


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (None, "timed out"),
        (b"", "it closed the connection without an answer"),
        (b"220 a mail server\r\n", "its answer is not HTTP"),
        (b"HTTP/1.1 OK\r\n\r\n{}", "its answer is not HTTP"),
    ],
    ids=["silent", "closed", "another protocol", "no status"],
)
def test_a_service_that_gives_no_answer(
    item: Outgoing, monkeypatch: pytest.MonkeyPatch, says: bytes | None, reason: str
) -> None:
    monkeypatch.setattr(stow, "IDLE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                while b"--\r\n" not in peer.recv(2**20)[-4:]:
                    pass
                if says is None:
                    peer.recv(1)
                else:
                    peer.sendall(says)

        thread = threading.Thread(target=serve)
        thread.start()
        channel = Stow(DicomWeb(f"http://127.0.0.1:{server.getsockname()[1]}"), None)
        with pytest.raises(Unreachable, match=f"^{reason}$"):
            list(channel.store([item]))
        thread.join()


@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        ("http", b"HTTP/1.1 200 O"),
        ("http", b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"),
        ("http", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("https", b"\x16\x03\x03\x40\x00"),
    ],
    ids=["status", "body", "body of any length", "TLS handshake"],
)
def test_a_service_that_answers_byte_by_byte_is_cut_off(
    item: Outgoing, monkeypatch: pytest.MonkeyPatch, scheme: str, says: bytes
) -> None:
    monkeypatch.setattr(stow, "EXCHANGE_SECONDS", 1.0)
    monkeypatch.setattr(stow, "LEAST_RATE", 1e12)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            peer.settimeout(0.02)
            with peer, suppress(BrokenPipeError, ConnectionResetError):
                peer.sendall(says)
                for _ in range(500):
                    with suppress(TimeoutError):
                        while peer.recv(2**20):
                            pass
                    peer.sendall(b" ")

        thread = threading.Thread(target=serve)
        thread.start()
        channel = Stow(DicomWeb(f"{scheme}://127.0.0.1:{server.getsockname()[1]}"), None)
        start = time.monotonic()
        with pytest.raises(Unreachable, match="^the exchange took more than 1 s$"):
            list(channel.store([item]))
        assert 0.9 < time.monotonic() - start < 5
        thread.join()


def test_a_service_with_tls(
    start: Start, tmp_path: Path, until: Until, logged: Logged, item: Outgoing
) -> None:
    pytest.importorskip("cryptography", reason="cryptography is not installed: the extra sign")
    from support.certificates import Authority

    from clinreadnet.node.tls import client_context, server_context

    authority = Authority(tmp_path)
    files = authority.files("node")
    with DicomWebService(server_context(authority.files("pacs"))) as service:
        url = f"https://localhost:{service.port}/dicom-web"
        node = start(tls=files, send_tls=True, destination=DicomWeb(url))
        store_one(node, client_context(files))
        logged(f"report sent to {url}")
        # Without the files, the authorities of the system do not know the service.
        with pytest.raises(Unreachable, match="^TLS: self.signed certificate|^TLS: unable to get"):
            list(Stow(DicomWeb(url), None).store([item]))
    expired = authority.files("old", days=-1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(expired.certificate, expired.key)
    with DicomWebService(context) as service:
        channel = Stow(DicomWeb(f"https://localhost:{service.port}"), client_context(files))
        with pytest.raises(Unreachable, match="^TLS: certificate has expired$"):
            list(channel.store([item]))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://pacs.example.org/dicom-web", "https://pacs.example.org/dicom-web"),
        ("http://[::1]:8042/dicom-web//", "http://[::1]:8042/dicom-web"),
        ("https://pacs.example.org", "https://pacs.example.org"),
    ],
)
def test_a_url_is_read(text: str, url: str) -> None:
    assert parse_destination(text) == DicomWeb(url)


@pytest.mark.parametrize(
    "text",
    ["ftp://host/a", "https://", "https:///a", "https://host:port/", "https://host:70000/"]
    + ["https://host:0/", "https://host/a?b=c", "https://host/a#b", "https://host/a b"]
    + ["https://user:secret@host/a", "https://[::1/a", "https://hôst/a", "https://host/a\r\nX: y"],
)
def test_a_wrong_url_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="^send_to=") as caught:
        parse_destination(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "content", "message"),
    [
        ("https://host/a", b"Bearer abc\n", None),
        ("http://127.0.0.1:8042/a", b"Basic YTpi", None),
        ("http://[::1]:8042/a", b"Basic YTpi", None),
        ("http://localhost:8042/a", b"Basic YTpi", None),
        ("http://localhost.example.org/a", b"Basic YTpi", "would be sent without TLS"),
        ("http://host/a", b"Basic YTpi", "would be sent without TLS"),
        ("https://host/a", b"", "give one line"),
        ("https://host/a", b"token", "give one line"),
        ("https://host/a", b"Bearer a\r\nX-More: b", "give one line"),
        ("host:104:PACS", b"Basic YTpi", "needs the URL of a DICOMweb service"),
    ],
)
def test_credentials_are_read_from_a_file(
    tmp_path: Path, url: str, content: bytes, message: str | None
) -> None:
    file = tmp_path / "authorization"
    file.write_bytes(content)
    destination = parse_destination(url)
    if message is None:
        assert authorize(destination, file).authorization == content.decode().strip()
        return
    with pytest.raises(InputError, match=message):
        authorize(destination, file)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a", "HTTP://127.0.0.1:1/a"])
def test_files_of_tls_are_for_a_url_with_https(tmp_path: Path, url: str) -> None:
    from typer.testing import CliRunner

    from clinreadnet.cli import app

    options = ["--tls-cert", "a", "--tls-key", "b", "--tls-ca", "c", "--send-tls"]
    given = ["--spool", str(tmp_path / "spool"), "--send-to", url, *options]
    error = CliRunner().invoke(app, ["listen", *given]).exception
    assert isinstance(error, InputError) and "--send-tls needs a URL with https" in str(error)
