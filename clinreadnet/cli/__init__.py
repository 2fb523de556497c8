"""The `clinreadnet` command. Each command is a thin door to one module.

Results go to standard output; progress, notes and errors go to standard error. Exit status: 0 fine,
1 a check failed, 2 bad usage or bad input.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from clinreadnet._version import __version__
from clinreadnet.cli import (
    ablate,
    doctor,
    evaluate,
    export,
    report,
    score,
    sign,
    simulate,
    train,
    tune,
    verify,
)
from clinreadnet.errors import ClinReadNetError
from clinreadnet.spec import RESEARCH_USE

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

# What a command needs beyond the bare install, and the extra that brings it.
_EXTRA_OF = {
    "matplotlib": "plot",
    "numba": "simulate",
    "onnx": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "pyarrow": "ray",
    "ray": "ray",
    "safetensors": "export",
    "scipy": "simulate",
    "skimage": "simulate",
    "torch": "export",
    "triton": "kernels",
}


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


for _command in (
    train.train,
    ablate.ablate,
    evaluate.evaluate,
    score.score,
    doctor.doctor,
    simulate.simulate,
    export.export,
    verify.verify,
    tune.tune,
    report.report,
    sign.sign,
):
    app.command()(_command)


def main() -> None:
    """Run the command line; errors meant for a user become one line and an exit status."""
    try:
        sys.exit(app(standalone_mode=False))
    except ClinReadNetError as error:
        print(f"clinreadnet: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        if message := error.format_message():  # empty where the help was shown instead
            print(f"clinreadnet: {message.rstrip('.')}. See --help.", file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA_OF:
            raise
        print(
            f"clinreadnet: this command needs {error.name}, which is not installed; run "
            f'pip install "clinreadnet[{_EXTRA_OF[error.name]}]"',
            file=sys.stderr,
        )
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("clinreadnet: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
