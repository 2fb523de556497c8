"""Check files, sizes and signature of a bundle before it is parsed.

The signature of a file lies beside it, with the suffix ``.sig``. `manifest.sig` contains only the
64 bytes of an Ed25519 signature of `manifest.json`, which `openssl pkeyutl -verify -rawin` can
check. The manifest contains the SHA-256 of every other file, so the signature covers the whole
bundle.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinreadnet import limits
from clinreadnet.errors import InputError, Untrusted, first_line, shell_word
from clinreadnet.files import read_regular

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MANIFEST_NAME = "manifest.json"
SIGNATURE_SUFFIX = ".sig"
SIGNATURE_NAME = f"manifest{SIGNATURE_SUFFIX}"

KeyFile = str | os.PathLike[str]
"""Path of a PEM file."""

_SIGNATURE_BYTES = 64
_PUBLIC_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----[^-]*-----END PUBLIC KEY-----", re.ASCII)


def read_inside(
    folder: Path, name: str, *, size: int | None = None, limit: int = limits.BUNDLE_FILE
) -> bytes:
    """Read a regular file in a bundle's folder once.

    Args:
        folder: the bundle.
        name: file name without a path.
        size: required size in bytes, checked before the file is read.
        limit: largest accepted size in bytes.

    Raises:
        FileNotFoundError: the file does not exist.
        Untrusted: the file is a link out of the folder, not a regular file, or has another size.
        InputError: the file cannot be read.
    """
    path = folder / name
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(folder.resolve()):
            raise Untrusted(f"{path}: a link that leaves the bundle; copy the file itself there")
        if not stat.S_ISREG(os.lstat(real).st_mode):
            raise Untrusted(f"{path}: not a plain file; copy the whole bundle again")
        # If the path is replaced after this check, a link is an error and a pipe does not block.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with open(os.open(real, flags | getattr(os, "O_BINARY", 0)), "rb") as file:
            length = os.fstat(file.fileno()).st_size
            if size is not None and length != size:
                raise Untrusted(
                    f"{path}: {length} bytes, the manifest says {size}; "
                    "copy the bundle again or export it again"
                )
            if length > limit:
                raise Untrusted(f"{path}: {length} bytes, at most {limit} are read; export again")
            return file.read(length)
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason})") from None


def read_manifest(folder: Path, trusted_keys: Sequence[KeyFile] | None = None) -> bytes:
    """Return the unparsed bytes of a bundle's manifest.

    Args:
        folder: the bundle.
        trusted_keys: PEM files of public keys. If given, the manifest must be signed by one of
            them.

    Raises:
        FileNotFoundError: the manifest does not exist.
        Untrusted: the manifest is unsigned, signed by another key, altered, or larger than
            ``limits.MANIFEST``.
        InputError: a key cannot be used, or `cryptography` is not installed.
    """
    keys = None if trusted_keys is None else public_keys(trusted_keys)
    content = read_inside(folder, MANIFEST_NAME, limit=limits.MANIFEST)
    if keys is not None:
        check_signature(folder / MANIFEST_NAME, content, keys)
    return content


def check_signature(path: Path, content: bytes, keys: list[Ed25519PublicKey]) -> None:
    """Check the signature of a bundle's manifest, or of another file.

    Args:
        path: the file.
        content: its bytes.
        keys: accepted public keys.

    Raises:
        Untrusted: the file is unsigned, signed by another key, or altered.
    """
    from cryptography.exceptions import InvalidSignature

    signed = path.with_suffix(SIGNATURE_SUFFIX)
    what = path.parent if path.name == MANIFEST_NAME else path
    try:
        signature = read_inside(path.parent, signed.name, limit=_SIGNATURE_BYTES)
    except FileNotFoundError:
        raise Untrusted(
            f"{what}: not signed, {signed.name} is missing; sign it with "
            f"`clinreadnet sign {shell_word(what)} --key KEY`"
        ) from None
    for key in keys:
        try:
            return key.verify(signature, content)
        except InvalidSignature:
            continue
    raise Untrusted(
        f"{path}: changed after it was signed, or not signed by a trusted key; get {what} again "
        "from its signer"
    )


def public_keys(files: Sequence[KeyFile]) -> list[Ed25519PublicKey]:
    """Return the public keys in PEM files.

    Raises:
        InputError: a file cannot be used, there is none, or `cryptography` is not installed.
    """
    if isinstance(files, str | os.PathLike):
        raise InputError(f"trusted_keys={files}: is a single path; give a list of paths")
    if not isinstance(files, Sequence) or not all(
        isinstance(file, str | os.PathLike) for file in files
    ):
        raise InputError(f"trusted_keys={files!r}: is not a list of paths")
    if not files:
        raise InputError("`trusted_keys` is empty, so no bundle could be trusted; name a key file")
    load = import_serialization()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    keys = []
    for file in files:
        pem = read_regular(file, limits.KEYS)
        for block in _PUBLIC_KEY.findall(pem) or [pem]:  # a file can contain several keys
            try:
                key = load.load_pem_public_key(block)
            except Exception as error:  # ValueError and exceptions of the package
                raise InputError(
                    f"{file}: not a public key in PEM form ({first_line(error)}); make it with "
                    "`openssl pkey -in KEY -pubout`"
                ) from None
            if not isinstance(key, Ed25519PublicKey):
                raise InputError(f"{file}: not an Ed25519 key; give one")
            keys.append(key)
    return keys


def import_serialization() -> Any:
    """Import the module of cryptography that reads keys, which is needed only with a key.

    Raises:
        InputError: cryptography is not installed.
    """
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError:
        raise InputError(
            'signatures need cryptography; run `pip install "clinreadnet[sign]"`'
        ) from None
    return serialization
