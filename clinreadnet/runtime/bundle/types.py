"""Types of a manifest's entries that name a file."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from clinreadnet.limits import BUNDLE_FILE

PLAIN_NAME = r"^(?!manifest\.(json|sig)$)[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)"
"""Names inside the bundle, of neither the manifest nor its signature."""

SHA256 = r"^[0-9a-f]{64}$(?!\n)"

# `format` checks the patterns, because its messages say more than msgspec's.
FileName = Annotated[str, Meta(extra_json_schema={"pattern": PLAIN_NAME})]
Sha256 = Annotated[str, Meta(extra_json_schema={"pattern": SHA256})]
FileSize = Annotated[int, Meta(ge=1, le=BUNDLE_FILE)]
"""Bytes of a file."""
