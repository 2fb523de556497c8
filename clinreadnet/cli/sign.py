"""`clinreadnet sign`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sign(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, or site map.", show_default=False)],
    key: Annotated[
        Path,
        typer.Option(help="Ed25519 private key, unencrypted PKCS #8 PEM.", show_default=False),
    ],
) -> None:
    """Sign a bundle for `score --trusted-key` and `Session(trusted_keys=...)`, or a site map.

    Writes `manifest.sig`. Every file is first compared with the manifest. Exporting again removes
    the signature. The signature of a site map lies beside it, such as `site-map.sig`.

    Examples:
    - `openssl genpkey -algorithm ed25519 -out key.pem`
    - `openssl pkey -in key.pem -pubout -out key.pub.pem`
    - `clinreadnet sign bundle --key key.pem`
    - `clinreadnet sign site-map.json --key key.pem`
    """
    from clinreadnet.runtime.bundle.sign import sign_bundle
    from clinreadnet.scoring.site_map import sign_site_map

    print(sign_site_map(bundle, key) if bundle.is_file() else sign_bundle(bundle, key))
