"""Read and write the files of a bundle.

Each file is read once: the hashed bytes are the bytes that are used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from clinreadnet import limits
from clinreadnet.errors import InputError, Untrusted, first_line, shell_word
from clinreadnet.files import whole_file
from clinreadnet.runtime.bundle.default import SHIPPED
from clinreadnet.runtime.bundle.format import manifest_json, parse_manifest
from clinreadnet.runtime.bundle.graph import check_graph
from clinreadnet.runtime.bundle.manifest import Artifact, Listed, Manifest
from clinreadnet.runtime.bundle.trust import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    KeyFile,
    read_inside,
    read_manifest,
)


def write_manifest(manifest: Manifest, bundle: str | os.PathLike[str]) -> Path:
    """Check ``manifest`` and write it atomically into the folder ``bundle``.

    The signature of the old manifest is removed, because it is no longer valid.

    Raises:
        InputError: a field is invalid, the folder does not exist, or the manifest is too large.
    """
    path = Path(bundle) / MANIFEST_NAME
    text = manifest_json(manifest)
    parse_manifest(text, path)
    if len(text.encode()) > limits.MANIFEST:
        raise InputError(f"{path}: would be larger than {limits.MANIFEST} bytes; export it again")
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        # Remove the signature after the new manifest is on disk and before it replaces the old one.
        path.with_name(SIGNATURE_NAME).unlink(missing_ok=True)
    return path


def load_manifest(
    bundle: str | os.PathLike[str], trusted_keys: Sequence[KeyFile] | None = None
) -> Manifest:
    """Read and check the manifest of the folder ``bundle``. The listed files are not read.

    Args:
        bundle: the folder.
        trusted_keys: PEM files of public keys. If given, the manifest must be signed by one of
            them. The signature is checked before the manifest is parsed.

    Raises:
        InputError: the bundle does not exist, or the manifest is not JSON, has a newer schema or an
            invalid field.
        Untrusted: the manifest is not signed by a trusted key, is a link out of the bundle, or is
            too large.
    """
    folder = Path(bundle)
    path = folder / MANIFEST_NAME
    if folder.is_file():
        raise InputError(f"{folder}: is a file; name the folder of the bundle")
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such bundle; "
            f"make one with `clinreadnet export --out {shell_word(folder)}`"
        )
    if trusted_keys and folder == SHIPPED and not (folder / SIGNATURE_NAME).exists():
        raise Untrusted(
            f"{folder}: the bundle in the package is not signed; copy it, sign the copy with "
            "`clinreadnet sign`, and name that with `bundle`"
        )
    try:
        text = read_manifest(folder, trusted_keys).decode("utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{path}: missing, so this is not a bundle; make one with `clinreadnet export`"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)})") from None
    return parse_manifest(text, path)


def now() -> str:
    """Return the time in UTC in the format of manifests, such as 2026-01-31T12:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def digest(content: bytes) -> str:
    """Return the SHA-256 of ``content``, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_listed(bundle: str | os.PathLike[str], listed: Listed) -> bytes:
    """Read a listed file and check its size and SHA-256.

    For an ONNX graph, also check its precision and that it refers to no other file (see
    `clinreadnet.runtime.bundle.graph`).

    Raises:
        InputError: the file is missing.
        Untrusted: the file differs from the manifest, is a link out of the bundle, or is a graph
            that needs another file or has another precision.
    """
    path = Path(bundle) / listed.file
    try:
        content = read_inside(Path(bundle), listed.file, size=listed.size)
    except FileNotFoundError:
        raise InputError(
            f"{path}: listed in the manifest but missing; copy the whole bundle or export it again"
        ) from None
    if digest(content) != listed.sha256:
        raise Untrusted(
            f"{path}: SHA-256 differs from the manifest; copy the bundle again or export it again"
        )
    if isinstance(listed, Artifact) and listed.kind == "onnx":
        check_graph(content, str(path), listed.precision)
    return content
