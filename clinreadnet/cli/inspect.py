"""`clinreadnet inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import print_result
from clinreadnet.cli.options import Json, TrustedKeys
from clinreadnet.errors import CheckFailed, counted


def inspect(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            help="Bundle folder. Default: as `clinreadnet score` finds it.", show_default=False
        ),
    ] = None,
    trusted_keys: TrustedKeys = None,
    as_json: Json = False,
) -> None:
    """List what a bundle holds, for which machines, and how each file was verified.

    Every file is compared with the manifest; none is loaded. Exit status 1: a file is missing or
    is not the one in the manifest.

    Examples:
    - `clinreadnet inspect bundle`
    - `clinreadnet inspect bundle --trusted-key vendor.pub.pem --json`
    """
    from clinreadnet.runtime.bundle.default import find_bundle
    from clinreadnet.runtime.bundle.inspect import inspect_bundle, print_contents

    contents = inspect_bundle(find_bundle(bundle), trusted_keys or None)
    print_result(contents, as_json, print_contents)
    if contents.problems:
        raise CheckFailed(
            f"{contents.bundle}: {counted(len(contents.problems), 'file', verb='is')} not as listed"
        )
