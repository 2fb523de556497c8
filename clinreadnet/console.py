"""Progress bars and notes on standard error. Standard output stays machine-readable."""

from __future__ import annotations

import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any, Literal, NoReturn

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.spinner import Spinner
from rich.table import Column as TableColumn
from rich.table import Table
from rich.text import Text

from clinreadnet.errors import visible

_FRAME = 3
"""Cells of a terminal around the text of a column; 1 in a compact table."""


class _StandardError(io.TextIOBase):
    """The current standard error. Failed writes are ignored.

    While rich draws a bar or a status, ``sys.stderr`` is a proxy that prints to ``console``, which
    writes to this object. This class therefore writes to the file behind the proxy.
    """

    @property
    def _stream(self) -> Any:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has an attribute, io a property
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        with suppress(OSError, AttributeError):  # AttributeError: closed before Python started
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, AttributeError):
            self._stream.flush()


# In typeshed TextIOBase is not an IO[str], although it has all methods that rich and print use.
_error: IO[str] = _StandardError()  # type: ignore[assignment]
console = Console(file=_error)
"""Console for everything except results."""


STANDARD_OUTPUT = "standard output"


@contextmanager
def output_named() -> Iterator[None]:
    """Make errors of writing results name standard output."""
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
        """Create it. Without ``markup``, a name such as ``CT[axial].dcm`` is printed literally."""
        super().__init__(markup=markup)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print with rich. Errors name standard output."""
        with output_named():
            super().print(*objects, **options)

    def on_broken_pipe(self) -> NoReturn:
        """Raise the error again."""
        raise BrokenPipeError


def note(line: str) -> None:
    """Print a line to standard error, above a bar. Control characters are escaped."""
    console.print(visible(line), markup=False, highlight=False, emoji=False, soft_wrap=True)


def step(line: str) -> None:
    """Say what is begun, where no bar shows it: a log then tells work from a standstill."""
    if not _draws():
        note(line)


@contextmanager
def status(line: str) -> Iterator[None]:
    """Show a status on a terminal until the block ends.

    Standard output is not redirected; rich's status would redirect it to standard error. Ctrl-C
    ends the block even where a library that is imported or called there catches the
    KeyboardInterrupt.
    """
    interrupts = _Interrupts()
    interrupts.start()
    try:
        if not _draws():
            yield
        else:
            shown = Spinner("dots", Text(visible(line)), style="status.spinner")
            live = Live(shown, console=console, transient=True, redirect_stdout=False)
            try:
                with _uninterrupted():
                    live.start(refresh=True)
                yield
            finally:
                with _uninterrupted():
                    live.stop()
    finally:
        interrupts.stop()
    interrupts.check()


class _Interrupts:
    """Remembers Ctrl-C between start and stop, because a library can swallow KeyboardInterrupt.

    It does nothing in other threads, and where the program handles Ctrl-C in another way.
    """

    def __init__(self) -> None:
        self._watching = self._seen = False

    def start(self) -> None:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            signal.signal(signal.SIGINT, self._interrupt)
            self._watching = True

    def stop(self) -> None:
        if self._watching:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._watching = False

    def check(self) -> None:
        """Raise KeyboardInterrupt again if Ctrl-C was typed and the program went on."""
        if self._seen and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._seen = True
        signal.default_int_handler(number, frame)


def progress_bar(*, quiet: bool = False, stopping: Callable[[], bool] = lambda: False) -> Progress:
    """Return a progress display (a context manager).

    Args:
        quiet: show nothing. Nothing is shown either if standard error is not a terminal.
        stopping: whether a Ctrl-C was seen that waits for the end of a step. The bar then says so.
    """
    whole = TableColumn(no_wrap=True)  # on a narrow terminal the bar alone is shortened
    return _Progress(
        _Description(stopping),
        BarColumn(),
        MofNCompleteColumn(table_column=whole.copy()),
        TimeElapsedColumn(table_column=whole.copy()),
        TimeRemainingColumn(table_column=whole.copy()),
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=quiet or not _draws(),
    )


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar of one task; yield a function to call with each number of steps done."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=total)
        yield lambda steps: bar.advance(task, steps)


class _Description(TextColumn):
    """The description of a task, or that it stops after this step."""

    def __init__(self, stopping: Callable[[], bool]):
        super().__init__("{task.description}")
        self._stopping = stopping

    def render(self, task: Task) -> Text:
        return Text("stopping after this step") if self._stopping() else super().render(task)


class _Progress(Progress):
    """A progress display whose start and stop are not interrupted by Ctrl-C.

    A Ctrl-C that a library swallows ends the program at the next progress.
    """

    _interrupts: _Interrupts | None = None

    def start(self) -> None:
        if self._interrupts is None:
            self._interrupts = _Interrupts()
            self._interrupts.start()
        try:
            with _uninterrupted():
                super().start()
        except KeyboardInterrupt:
            self.stop()
            raise

    def stop(self) -> None:
        with _uninterrupted():
            super().stop()
        if self._interrupts is not None:
            self._interrupts.stop()
            self._interrupts = None

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        self._check()
        super().advance(task_id, advance)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        self._check()
        super().update(task_id, **changes)

    def add_task(self, description: str, *given: Any, **options: Any) -> TaskID:
        self._check()
        return super().add_task(description, *given, **options)

    def _check(self) -> None:
        if self._interrupts is not None:
            self._interrupts.check()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block.

    A display that is interrupted during its start would be drawn again below the last line.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting:
            signal.raise_signal(signal.SIGINT)


def _draws() -> bool:
    """Return whether standard error is a terminal. With FORCE_COLOR rich claims it of files too."""
    return console.is_terminal and _error.isatty()


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: text of its head.
        cells: text of each row.
        leave_out: order in which columns are omitted on a narrow terminal, largest first; 0 stays.
        justify: alignment of the text.
    """

    heading: str
    cells: Sequence[str | Text]
    leave_out: int = 0
    justify: Literal["left", "right"] = "right"

    @property
    def width(self) -> int:
        """Cells of a terminal that its text takes."""
        lines = (line for text in (self.heading, *self.cells) for line in str(text).splitlines())
        return max(map(cell_len, lines))


def print_lines(console: Console, *lines: str) -> None:
    """Print lines as they are: the terminal folds those that are longer than its width."""
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def fitted_table(
    console: Console,
    heading: str,
    names: Sequence[str],
    columns: list[Column],
    *,
    most: int = 20,
    compact: bool = False,
    title: str = "",
) -> Table:
    """Return a table of names and the columns that fit beside them. It names those that do not fit.

    Args:
        console: console to print to, whose width decides.
        heading: heading of the names.
        names: name of each row; names that do not fit are folded.
        columns: columns beside the names.
        most: fold names that are longer than this rather than leave out a column.
        compact: whether to draw a single line instead of frames.
        title: line above the table; empty without.
    """
    frame = 1 if compact else _FRAME
    wanted = columns
    least = min(max(map(cell_len, (heading, *names))), most)
    for column in sorted((c for c in columns if c.leave_out), key=lambda c: -c.leave_out):
        room = console.width - 1 - frame - sum(c.width + frame for c in columns)
        if room >= least:
            break
        columns = [c for c in columns if c is not column]
    table = Table(box=box.SIMPLE_HEAD, padding=0) if compact else Table()
    if title:
        table.title, table.title_justify = Text(title), "left"
    left_out = [" ".join(column.heading.split()) for column in wanted if column not in columns]
    if left_out:
        table.caption = Text(f"Left out at this width: {', '.join(dict.fromkeys(left_out))}")
        table.caption_justify = "left"
    table.add_column(heading, overflow="fold")
    for column in columns:
        table.add_column(column.heading, justify=column.justify, no_wrap=True)
    for name, *cells in zip(names, *(column.cells for column in columns), strict=True):
        table.add_row(Text(name), *(Text(c) if isinstance(c, str) else c for c in cells))
    return table
