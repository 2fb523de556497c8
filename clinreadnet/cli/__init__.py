"""The `clinreadnet` command, one module per subcommand.

Results go to standard output; progress, notes and errors go to standard error. Exit status: 0 fine,
1 a check failed, 2 bad usage or bad input.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from typing import Annotated, NoReturn, TextIO

import typer

from clinreadnet._version import __version__
from clinreadnet.cli import (
    ablate,
    calibrate,
    check_graph,
    doctor,
    evaluate,
    evaluate_order,
    export,
    export_kernels,
    export_triton_server,
    listen,
    report,
    score,
    score_archive,
    sign,
    simulate,
    spool,
    summarize,
    train,
    tune,
    verify,
)
from clinreadnet.cli.command import Command
from clinreadnet.console import STANDARD_OUTPUT, note, output_named
from clinreadnet.errors import ClinReadNetError, first_line, one_line
from clinreadnet.spec import RESEARCH_USE

app = typer.Typer(
    name="clinreadnet",
    help=f"""Predict quality scores (0 bad ... 4 excellent) for low-dose CT slices, without a
reference image.

Score slices with a bundle, or make a verified bundle from a checkpoint.

{RESEARCH_USE}
""",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

# In the order of `clinreadnet --help`.
_GROUPS = {
    "Deploy": (
        export.export,
        verify.verify,
        sign.sign,
        check_graph.check_graph,
        export_kernels.export_kernels,
        export_triton_server.export_triton_server,
        doctor.doctor,
    ),
    "Score": (
        score.score,
        score_archive.score_archive,
        summarize.summarize,
        listen.listen,
        spool.spool,
    ),
    "Measure": (
        evaluate.evaluate,
        evaluate_order.evaluate_order,
        report.report,
        tune.tune,
    ),
    "Train": (simulate.simulate, train.train, calibrate.calibrate, ablate.ablate),
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


for _group, _commands in _GROUPS.items():
    for _command in _commands:
        app.command(cls=Command, rich_help_panel=_group)(_command)


def main() -> None:
    """Run the command line; errors meant for a user become one line and an exit status."""
    _open_standard_streams()
    threading.excepthook = _thread_failed
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)):
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(standalone_mode=False)
        with output_named():
            sys.stdout.flush()
        sys.exit(status)
    except ClinReadNetError as error:
        _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        # The message is empty where the help was shown instead.
        if message := error.format_message():
            _fail(f"{message.rstrip('.')}. See --help.", error.exit_code)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except BrokenPipeError:
        _drop(sys.stdout)
        sys.exit(0)
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        if error.filename is None and _output_fails():
            where = f"{STANDARD_OUTPUT}: "
        advice = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        _fail(f"{where}{error.strerror or first_line(error)}{advice}", 2)
    except MemoryError:
        _fail("memory is full; give fewer files or a smaller batch", 1)


_LAST_WAIT = 10
"""Seconds to clean up in after SIGTERM."""


def _fail(message: str, status: int) -> NoReturn:
    if _output_fails() and status == 1:  # the report that says why is lost
        message, status = f"{STANDARD_OUTPUT} cannot be written; {message}", 2
    note(f"clinreadnet: {one_line(message)}")
    try:
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)
    sys.exit(status)


def _end(number: int, frame: object) -> NoReturn:
    """End the program through its ``finally`` blocks; a second signal ends it at once."""
    signal.signal(number, signal.SIG_DFL)
    # An exception inside a destructor or a callback is lost: then the alarm ends the program.
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_LAST_WAIT)
    sys.exit(128 + number)


def _open_standard_streams() -> None:
    """Replace standard streams that are closed: a file that is opened would get their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))


def _output_fails() -> bool:
    """Return whether something waits for standard output and cannot be written there."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop(sys.stdout)
        return True
    return False


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Print nothing of a full disk: whoever waits for the thread reports it."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


def _drop(stream: TextIO) -> None:
    """Let nothing that waits in a stream fail when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
