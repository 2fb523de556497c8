"""The `clinreadnet` command. Each command is a thin door to one module.

Results go to standard output; progress, notes and errors go to standard error. Exit status: 0 fine,
1 a check failed, 2 bad usage or bad input.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from clinreadnet import __version__
from clinreadnet.errors import ClinReadNetError
from clinreadnet.grading import RESEARCH_USE

app = typer.Typer(
    name="clinreadnet",
    help=f"""No-reference quality scores (0 bad ... 4 excellent) for low-dose CT slices.

Score slices with a bundle, or make a verified bundle from a checkpoint.

{RESEARCH_USE}
""",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

# Spellings shared by every command.
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output where it exists.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors meant for a user become one line and an exit status."""
    try:
        app()
    except ClinReadNetError as error:
        print(f"clinreadnet: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("clinreadnet: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
