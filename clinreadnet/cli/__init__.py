"""The `clinreadnet` command, one module per subcommand.

Results go to standard output; progress, notes and errors go to standard error. Exit status: 0 fine,
1 a check failed, 2 bad usage, bad input or an output that cannot be written, 4 a limit of the site
is exceeded, 130 interrupted by Ctrl-C.

This module imports little, so that Ctrl-C prints one line from the start (`clinreadnet.__main__`).
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from clinreadnet.errors import ClinReadNetError, one_line, os_error_line

if TYPE_CHECKING:
    from clinreadnet.cli.commands import app as app


def __getattr__(name: str) -> Any:
    """Import the commands on first access to ``app``."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from clinreadnet.cli.commands import app

    return app


def main() -> None:
    """Run the command line. Errors for users become one line and an exit status."""
    try:
        _prepare()
        _run()
    except ClinReadNetError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the program at once
        _show_cursor()
        try:
            _fail("interrupted", _INTERRUPTED)
        finally:
            _leave_threads()
    except BrokenPipeError:
        _end_of_pipe()
    except OSError as error:
        if error.filename is None and _output_fails():
            from clinreadnet.console import STANDARD_OUTPUT

            error.filename = STANDARD_OUTPUT
        _fail(os_error_line(error), 2)
    except MemoryError:
        _fail("memory is full; give fewer files or a smaller batch", 1)


def _prepare() -> None:
    """Set up signals, threads, warnings and the standard streams."""
    _open_standard_streams()
    threading.excepthook = _thread_failed
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)):
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the terminal's encoding lacks characters
            stream.reconfigure(errors="backslashreplace")
    _quiet_libraries()


def _run() -> NoReturn:
    """Run a command and exit with its status."""
    import typer

    from clinreadnet.cli.commands import app
    from clinreadnet.console import output_named

    try:
        status = app(standalone_mode=False)
    except typer.TyperException as error:
        # The message is empty if the help was shown.
        if message := error.format_message():
            end = "" if message.endswith("?") else "."
            _fail(f"{message.rstrip('.')}{end} See --help.", error.exit_code)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer converts it to status 1
            _end_of_pipe()
        raise
    if status == _INTERRUPTED:  # typer returns it in place of KeyboardInterrupt
        raise KeyboardInterrupt
    with output_named():
        sys.stdout.flush()
    sys.exit(status)


def _show_cursor() -> None:
    """Show the cursor again, if a progress bar was ended while it was hidden."""
    from clinreadnet.console import console

    console.show_cursor()


def _leave_threads() -> None:
    """End the process now if a thread is still running: Python would wait for it.

    Context managers have already cleaned up the outputs.
    """
    if any(not t.daemon for t in threading.enumerate() if t is not threading.main_thread()):
        os._exit(_INTERRUPTED)


def _quiet_libraries() -> None:
    """Silence warnings of libraries, which can repeat header values."""
    if not sys.warnoptions:  # -W, PYTHONWARNINGS
        warnings.simplefilter("ignore")
    logging.lastResort = logging.NullHandler()  # for loggers without a handler


def _end_of_pipe() -> NoReturn:
    """End silently with status 0 after the reader of a pipe, such as `| head`, has closed it."""
    assert sys.__stdout__ is not None
    sys.stdout = sys.__stdout__  # typer replaces it
    _drop(sys.stdout)
    sys.exit(0)


_INTERRUPTED = 130
_LAST_WAIT = 10
"""Seconds for the cleanup after SIGTERM."""


def _fail(message: str, status: int) -> NoReturn:
    from clinreadnet.console import STANDARD_OUTPUT, note

    if _output_fails() and status not in (2, _INTERRUPTED):  # the report with the reason is lost
        message, status = f"{STANDARD_OUTPUT} cannot be written; {message}", 2
    note(f"clinreadnet: {one_line(message)}")
    try:
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)
    sys.exit(status)


def _end(number: int, frame: object) -> NoReturn:
    """End the program through its ``finally`` blocks. A second signal ends it at once."""
    signal.signal(number, signal.SIG_DFL)
    # If the exception is lost in a destructor or a callback, the alarm ends the program.
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_LAST_WAIT)
    sys.exit(128 + number)


def _open_standard_streams() -> None:
    """Open closed standard streams, so that no other file gets their descriptor."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))


def _output_fails() -> bool:
    """Return whether buffered output cannot be written to standard output."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop(sys.stdout)
        return True
    return False


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Do not print OSError and MemoryError of threads: the waiting thread reports them."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


def _drop(stream: TextIO) -> None:
    """Discard the buffer of a stream, so that flushing it at exit does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
