"""`clinreadnet sign`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sign(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)],
    key: Annotated[
        Path,
        typer.Option(help="Ed25519 private key, unencrypted PKCS #8 PEM.", show_default=False),
    ],
) -> None:
    """Sign a bundle for `score --trusted-key` and `Session(trusted_keys=...)`.

    Writes `manifest.sig`. Every file is first compared with the manifest. Exporting again removes
    the signature.

    Examples:
    - `openssl genpkey -algorithm ed25519 -out key.pem`
    - `openssl pkey -in key.pem -pubout -out key.pub.pem`
    - `clinreadnet sign bundle --key key.pem`
    """
    from clinreadnet.runtime.bundle.sign import sign_bundle

    print(sign_bundle(bundle, key))
