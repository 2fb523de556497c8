"""TLS 1.2 or 1.3 with certificates on both sides of a connection."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from clinreadnet import limits
from clinreadnet.errors import InputError, first_line
from clinreadnet.files import read_regular
from clinreadnet.node.config import TlsFiles


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context for the node's port: a peer needs a certificate from the authority.

    Raises:
        InputError: a file cannot be used, or a certificate in it is not valid now.
    """
    return _context(ssl.PROTOCOL_TLS_SERVER, files)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context for sending: the destination needs a certificate for its host name.

    Raises:
        InputError: a file cannot be used, or a certificate in it is not valid now.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, files)


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    for path in (files.certificate, files.authority):
        _check_dates(path)
    read_regular(files.key, limits.KEYS)
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise InputError(
            f"{files.certificate}, {files.key}: not a certificate with its key "
            f"({first_line(error)}); give PEM files, the key without a password"
        ) from None
    try:
        context.load_verify_locations(files.authority)
    except (ssl.SSLError, OSError) as error:
        raise InputError(
            f"{files.authority}: not a certificate of an authority ({first_line(error)})"
        ) from None
    return context


def _no_password() -> str:
    raise ValueError("the key has a password")


def _check_dates(path: Path) -> None:
    from cryptography import x509

    try:
        certificates = x509.load_pem_x509_certificates(read_regular(path, limits.KEYS))
    except ValueError:
        raise InputError(f"{path}: not a certificate; give a PEM file") from None
    now = datetime.now(UTC)
    for certificate in certificates:
        if certificate.not_valid_after_utc < now:
            raise InputError(
                f"{path}: the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}; "
                "renew it, and start the node again"
            )
        if certificate.not_valid_before_utc > now:
            raise InputError(
                f"{path}: the certificate is not valid before "
                f"{certificate.not_valid_before_utc:%Y-%m-%d}; check the clock of this machine"
            )
