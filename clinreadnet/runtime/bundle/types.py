"""Types of manifest fields that describe a file."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from clinreadnet.limits import BUNDLE_FILE

PLAIN_NAME = r"^(?!manifest\.(json|sig)$)[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)"
"""File name inside the bundle, other than the manifest and its signature."""

SHA256 = r"^[0-9a-f]{64}$(?!\n)"

# `format` checks patterns itself, because its messages are clearer than those of msgspec.
FileName = Annotated[str, Meta(extra_json_schema={"pattern": PLAIN_NAME})]
Sha256 = Annotated[str, Meta(extra_json_schema={"pattern": SHA256})]
FileSize = Annotated[int, Meta(ge=1, le=BUNDLE_FILE)]
"""Size of a file in bytes."""
