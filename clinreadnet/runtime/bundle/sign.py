"""Sign a bundle for a `Session` with ``trusted_keys``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from clinreadnet import limits
from clinreadnet.errors import InputError, first_line
from clinreadnet.files import read_regular, whole_file
from clinreadnet.runtime.bundle.files import load_manifest, read_listed
from clinreadnet.runtime.bundle.format import parse_manifest
from clinreadnet.runtime.bundle.manifest import listed_files
from clinreadnet.runtime.bundle.trust import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    SIGNATURE_SUFFIX,
    KeyFile,
    check_signature,
    import_serialization,
    read_manifest,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def sign_bundle(bundle: str | os.PathLike[str], key: KeyFile) -> Path:
    """Check every file of a bundle against its manifest, and sign the manifest's bytes.

    Args:
        bundle: the folder.
        key: Ed25519 private key, an unencrypted PKCS #8 PEM file.

    Returns:
        Path of `manifest.sig`, which is written atomically.

    Raises:
        InputError: the bundle is missing or damaged, or the key cannot be used.
        Untrusted: a file differs from the manifest.
    """
    folder = Path(bundle)
    load_manifest(folder)  # for its error messages
    content = read_manifest(folder)
    for listed in listed_files(parse_manifest(content.decode("utf-8"), folder)):
        read_listed(folder, listed)
    return sign_file(folder / MANIFEST_NAME, content, key)


def sign_file(path: Path, content: bytes, key: KeyFile) -> Path:
    """Write the signature of a file beside it, atomically.

    Args:
        path: the file.
        content: its bytes.
        key: as in `sign_bundle`.

    Returns:
        Path of the signature.

    Raises:
        InputError: the key cannot be used.
    """
    signature = _private_key(key).sign(content)
    signed = path.with_suffix(SIGNATURE_SUFFIX)
    with whole_file(signed) as temporary:
        temporary.write_bytes(signature)
    return signed


def check_renewal(bundle: str | os.PathLike[str], key: KeyFile) -> None:
    """Check that a key can be used and that an existing signature was made with it.

    Otherwise a manifest that someone else changed would be signed.

    Args:
        bundle: the folder.
        key: as in `sign_bundle`.

    Raises:
        InputError: the key cannot be used.
        Untrusted: the bundle has a signature that is not this key's.
    """
    folder = Path(bundle)
    private = _private_key(key)
    if (folder / SIGNATURE_NAME).exists():
        content = read_manifest(folder)
        check_signature(folder / MANIFEST_NAME, content, [private.public_key()])


def _private_key(key: KeyFile) -> Ed25519PrivateKey:
    load = import_serialization()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = read_regular(key, limits.KEYS)
    try:
        private = load.load_pem_private_key(pem, password=None)
    except Exception as error:  # ValueError, TypeError and the package's own
        raise InputError(
            f"{key}: not an unencrypted private key in PEM form ({first_line(error)}); make one "
            "with `openssl genpkey -algorithm ed25519 -out KEY`"
        ) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise InputError(f"{key}: not an Ed25519 key; make one with `openssl genpkey`")
    return private
