"""Commands of `clinreadnet` in this process."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from clinreadnet.cli import app


def run_command(*arguments: object) -> Any:
    """Run a command and return its result; raise its exception, if that is not an exit."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
