"""Output on a terminal, which is never written to standard output."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.progress import ProgressColumn
from rich.text import Text
from support import terminal

from clinreadnet.console import Column, fitted_table, progress_bar

PROGRAM = """
import sys, time, warnings
from clinreadnet.console import console, note, progress_bar, status
with status("Reading [headers]"):
    note("a note with [bold] and \\x1b[31m")
    print("plain", file=sys.stderr)
    print("result")
    time.sleep(0.2)
with progress_bar() as bar:
    task = bar.add_task("Scoring", total=3)
    for number in range(3):
        bar.advance(task)
        note(f"note {number}")
        time.sleep(0.1)
"""


@pytest.mark.parametrize("columns", [100, 40])
@pytest.mark.parametrize(
    "environment", [{}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}, {"TERM": "dumb"}], ids=str
)
def test_a_bar_and_a_status_end_and_leave_the_line_clean(
    environment: dict[str, str], columns: int, tmp_path: Path
) -> None:
    screen = terminal.run(
        [sys.executable, "-c", PROGRAM], tmp_path, columns=columns, environment=environment
    )
    assert screen.status == 0
    assert screen.cursor_shown and screen.line_clean, screen.drawn
    for line in ("a note with [bold] and \\x1b[31m", "plain", "result", "note 2"):
        assert screen.drawn.count(line) == 1
    assert "Reading [headers]" in screen.drawn or "dumb" in environment.values()
    assert ("Scoring" in screen.drawn) == ("dumb" not in environment.values())


def test_a_narrow_terminal_shortens_the_bar_and_no_number() -> None:
    bar = progress_bar()
    bar.add_task("Verifying", total=404, completed=108)
    written = io.StringIO()
    Console(width=40, file=written).print(bar.get_renderable())
    assert "108/404 0:00:00 -:--:--" in written.getvalue()


def test_results_stay_on_standard_output_while_a_status_is_drawn(tmp_path: Path) -> None:
    target = tmp_path / "results"
    command = f"{sys.executable} -c '{PROGRAM}' > {target}"
    terminal.run(["sh", "-c", command], tmp_path)
    assert target.read_text() == "result\n"


def test_nothing_is_drawn_into_a_file(tmp_path: Path) -> None:
    target = tmp_path / "log"
    command = f"{sys.executable} -c '{PROGRAM}' 2> {target}"
    terminal.run(["sh", "-c", command], tmp_path, environment={"FORCE_COLOR": "1"})
    assert "Reading" not in target.read_text() and "Scoring" not in target.read_text()


INTERRUPTED = """
import signal, time
from rich.live import Live
from clinreadnet.console import console, progress_bar, status
moment, display = {moment!r}, {display}
real = getattr(Live, moment)
def interrupted(self, *arguments, **options):
    setattr(Live, moment, real)
    signal.raise_signal(signal.SIGINT)
    return real(self, *arguments, **options)
setattr(Live, moment, interrupted)
try:
    with display as bar:
        if bar is not None:
            bar.add_task("Scoring", total=3)
except KeyboardInterrupt:
    console.print("interrupted")
    time.sleep(0.4)
"""


@pytest.mark.parametrize("moment", ["start", "refresh", "stop", "_enable_redirect_io"])
@pytest.mark.parametrize("display", ['status("Scoring")', "progress_bar()"])
def test_a_display_that_is_interrupted_half_begun_is_not_drawn_again(
    display: str, moment: str, tmp_path: Path
) -> None:
    program = INTERRUPTED.format(moment=moment, display=display)
    screen = terminal.run([sys.executable, "-c", program], tmp_path)
    assert screen.status == 0, screen.drawn
    assert screen.drawn.rstrip().endswith("interrupted"), screen.drawn
    assert screen.cursor_shown


SWALLOWED = """
import signal
from clinreadnet.console import progress, status
try:
    with {display} as advance:
        try:
            signal.raise_signal(signal.SIGINT)
        except:
            pass
        if advance is not None:
            advance(1)
            print("goes on")
    print("goes on")
except KeyboardInterrupt:
    print("interrupted")
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


@pytest.mark.parametrize("display", ['status("Loading")', 'progress("Scoring", 3)'])
@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}], ids=str)
def test_an_interrupt_that_a_library_catches_is_not_lost(
    environment: dict[str, str], display: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", SWALLOWED.format(display=display)]
    screen = terminal.run(command, tmp_path, environment=environment)
    assert screen.status == 0 and "interrupted" in screen.drawn, screen.drawn
    assert "goes on" not in screen.drawn


@pytest.mark.parametrize("compact", [False, True])
def test_a_table_fits_and_names_the_columns_that_it_leaves_out(compact: bool) -> None:
    columns = [
        Column("score", ["2.50", "3.25"]),
        Column("long\nheading", ["a" * 12, ""], 1, "left"),
        Column("status", [Text("passed", "green"), "failed"], 2),
    ]
    for width in range(24, 60):
        written = io.StringIO()
        console = Console(width=width, file=written)
        console.print(fitted_table(console, "name", ["x" * 30, "y"], columns, compact=compact))
        shown = written.getvalue()
        assert all(cell_len(line) <= width for line in shown.splitlines())
        assert "2.50" in shown and "…" not in shown
        table, _, left_out = shown.partition("Left out at this width:")
        assert ("passed" in table) == ("status" not in left_out)
        assert ("aaa" in table) == ("long heading" not in " ".join(left_out.split()))
    assert not left_out


def test_a_bar_says_that_a_run_stops_after_the_step() -> None:
    stopping = False
    bar = progress_bar(stopping=lambda: stopping)
    bar.add_task("epoch 1", total=2)
    (task,) = bar.tasks
    column = bar.columns[0]
    assert isinstance(column, ProgressColumn)
    assert str(column(task)) == "epoch 1"
    stopping = True
    assert str(column(task)) == "stopping after this step"
