"""TLS in both directions: accepted peers, and expired certificates."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.dicom_files import make_ct, noise
from support.pacs import Pacs, connect

from clinreadnet.errors import InputError
from clinreadnet.node.config import Destination, TlsFiles
from clinreadnet.node.node import Node
from clinreadnet.node.tls import client_context, server_context

pytest.importorskip("cryptography", reason="cryptography is not installed: the extra sign")

from support.certificates import Authority

Start = Callable[..., Node]
Until = Callable[..., None]
Logged = Callable[[str], str]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority: Authority) -> TlsFiles:
    return authority.files("node")


@pytest.fixture
def secure_pacs(authority: Authority) -> Iterator[Pacs]:
    pacs = Pacs(context=server_context(authority.files("pacs")))
    yield pacs
    pacs.stop()


def unchecked_client(files: TlsFiles) -> ssl.SSLContext:
    """Return a client that sends its certificate without checking it."""
    context = ssl.create_default_context(cafile=str(files.authority))
    context.load_cert_chain(files.certificate, files.key)
    return context


def test_a_series_goes_through_encrypted_both_ways(
    start: Start, secure_pacs: Pacs, until: Until, authority: Authority, files: TlsFiles
) -> None:
    node = start(
        tls=files, send_tls=True, destination=Destination("localhost", secure_pacs.port, "PACS")
    )
    assoc = connect(node.port, context=client_context(authority.files("ct")))
    assert assoc.send_c_store(make_ct(noise())).Status == 0
    assoc.release()
    until(lambda: secure_pacs.received)


def test_a_peer_without_tls_or_without_a_certificate_is_hung_up_on(
    start: Start, files: TlsFiles, logged: Logged
) -> None:
    node = start(tls=files)
    assert not connect(node.port).is_established
    anonymous = ssl.create_default_context(cafile=str(files.authority))
    assert not connect(node.port, context=anonymous).is_established
    logged("connection refused: TLS: ")


def test_a_peer_of_another_authority_is_hung_up_on(
    start: Start, files: TlsFiles, tmp_path: Path, logged: Logged
) -> None:
    stranger = Authority(tmp_path, "other").files("stranger")
    context = unchecked_client(TlsFiles(stranger.certificate, stranger.key, files.authority))
    assert not connect(start(tls=files).port, context=context).is_established
    logged("connection refused: TLS: ")


def test_a_peer_whose_certificate_expired_is_hung_up_on(
    start: Start, authority: Authority, files: TlsFiles, logged: Logged
) -> None:
    node = start(tls=files)
    expired = unchecked_client(authority.files("ct", days=-1))
    assert not connect(node.port, context=expired).is_established
    logged("connection refused: TLS: certificate has expired")
    assoc = connect(node.port, context=client_context(authority.files("ct")))
    assert assoc.is_established
    assoc.release()


def test_a_silent_peer_does_not_keep_others_from_connecting(
    start: Start, authority: Authority, files: TlsFiles
) -> None:
    import socket

    node = start(tls=files)
    with socket.create_connection(("127.0.0.1", node.port)):
        assoc = connect(node.port, context=client_context(authority.files("ct")))
        assert assoc.is_established
        assoc.release()


def test_a_pacs_whose_certificate_expired_keeps_the_report_waiting(
    start: Start, authority: Authority, files: TlsFiles, tmp_path: Path, logged: Logged
) -> None:
    expired = authority.files("pacs", days=-1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(expired.certificate, expired.key)
    pacs = Pacs(context=context)
    node = start(tls=files, send_tls=True, destination=Destination("localhost", pacs.port, "PACS"))
    assoc = connect(node.port, context=client_context(authority.files("ct")))
    assoc.send_c_store(make_ct(noise()))
    assoc.release()
    logged("cannot be reached (TLS: certificate has expired): 1 object waits")
    assert len(list((tmp_path / "spool" / "outgoing").iterdir())) == 1 and pacs.received == []
    pacs.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("expired", "node.pem: the certificate expired on 20"),
        ("no certificate", "node.pem: not a certificate; give a PEM file"),
        ("other key", "with its key"),
        ("missing", "node.key: no such file"),
    ],
)
def test_files_that_cannot_be_used_are_refused_at_the_start(
    authority: Authority, files: TlsFiles, change: str, message: str
) -> None:
    if change == "expired":
        authority.files("node", days=-1)
    elif change == "no certificate":
        files.certificate.write_text("no certificate")
    elif change == "other key":
        files.key.write_bytes(authority.files("other").key.read_bytes())
    else:
        files.key.unlink()
    with pytest.raises(InputError, match=message):
        server_context(files)
