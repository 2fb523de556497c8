"""What is drawn on a terminal, and what stays off standard output."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import terminal

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
