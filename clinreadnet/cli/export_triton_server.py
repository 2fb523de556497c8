"""`clinreadnet export-triton-server`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import print_result
from clinreadnet.cli.options import Bundle, Json
from clinreadnet.console import note


def export_triton_server(
    out: Annotated[Path, typer.Option(help="Model repository to create.", show_default=False)],
    bundle: Bundle = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace a repository that holds only models of this command."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a verified bundle as a model repository for NVIDIA Triton Inference Server.

    Artifacts that Triton cannot load are left out with a note.

    Examples:
    - `clinreadnet export-triton-server --out models`
    - `clinreadnet export-triton-server --out models --bundle bundle --force --json`
    """
    from clinreadnet.export.triton_server import print_repository, write_repository
    from clinreadnet.runtime.bundle.default import default_bundle

    repository = write_repository(bundle or default_bundle(), out, force=force)
    for file, reason in repository.left_out.items():
        note(f"clinreadnet: {file} left out: {reason}")
    print_result(repository, as_json, print_repository)
