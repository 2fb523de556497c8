"""Progress bars and notes on standard error, so that standard output stays machine-readable."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from clinreadnet.errors import visible


class _StandardError(io.TextIOBase):
    """Standard error as it is now; what cannot be written there is lost and ends nothing."""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has an attribute, io a property
        return getattr(sys.stderr, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return sys.stderr is not None and sys.stderr.isatty()

    def fileno(self) -> int:
        return sys.stderr.fileno()

    def write(self, text: str) -> int:
        with suppress(OSError, AttributeError):  # AttributeError: closed before Python started
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, AttributeError):
            sys.stderr.flush()


# Typeshed's TextIOBase is no IO[str], though it has all that rich and print use.
_error: IO[str] = _StandardError()  # type: ignore[assignment]
console = Console(file=_error)
"""Console for everything except results."""


STANDARD_OUTPUT = "standard output"


@contextmanager
def output_named() -> Iterator[None]:
    """Let a failure to write results name standard output."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = STANDARD_OUTPUT
        raise


class Output(Console):
    """Console for results on standard output.

    A closed pipe raises BrokenPipeError; rich would exit with status 1.
    """

    def __init__(self, *, markup: bool = False) -> None:
        """Make it; without ``markup``, a name such as ``CT[axial].dcm`` is printed as it is."""
        super().__init__(markup=markup)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does; a failure names standard output."""
        with output_named():
            super().print(*objects, **options)

    def on_broken_pipe(self) -> NoReturn:
        """Raise the error again."""
        raise BrokenPipeError


def note(line: str) -> None:
    """Print one line to standard error; what a terminal would act on is escaped."""
    print(visible(line), file=_error, flush=True)


def progress_bar(*, quiet: bool = False) -> Progress:
    """Return a progress display (a context manager).

    Args:
        quiet: show nothing. If stderr is not a terminal, nothing is shown either.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
