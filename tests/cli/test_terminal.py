"""Every command at a terminal: it draws its bar, ends, and restores cursor and line."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import typer

pytest.importorskip("torch")
pytest.importorskip("ray")
pytest.importorskip("triton")
pytest.importorskip("cryptography")

from support import terminal
from support.fault_commands import COMMANDS, READERS
from support.tiny_bundle import write_bundle

from clinreadnet.cli import app

ALL = {**COMMANDS, **READERS}
ENDLESS = {"listen"}
WIDE, NARROW = (100, {}), (40, {"NO_COLOR": "1"})
"""Columns and environment of a terminal."""
ANSWER_SECONDS = 1.0
"""Seconds after Ctrl-C in which a command ends, if it has a processor."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], Path]:
    """Return a function that writes the inputs of a command to a folder."""
    folders: dict[str, Path] = {}

    def put(name: str, place: Path) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / "before"
            ALL[name].make(folders[name])
        return Path(shutil.copytree(folders[name], place / "work"))

    return put


def test_every_command_is_here() -> None:
    names = {command.split("-dicom")[0].split("-record")[0] for command in ALL}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == names


def in_turn(names: Iterable[str], first: Any, second: Any) -> list[Any]:
    """Pair each name with both values; the sample alternates the values."""
    return [
        (name, value)
        for count, name in enumerate(names)
        for value in ((second, first) if count % 2 else (first, second))
    ]


BARS = {
    "score": "Scoring",
    "score-archive": "Scoring",
    "verify": "Verifying",
    "export": "Exporting",
    "export-kernels": "Compiling",
    "simulate": "simulating",
    "train": "epoch",
    "evaluate": "score",
    "calibrate": "score",
}


def has_bar(name: str, screen: terminal.Screen) -> bool:
    return re.search(rf"{BARS[name]}[^\n]*━", screen.drawn) is not None


@pytest.mark.sample(every=2)
@pytest.mark.parametrize(
    ("name", "kind"),
    in_turn(sorted(set(ALL) - ENDLESS), WIDE, NARROW),
    ids=lambda value: value if isinstance(value, str) else f"{value[0]}-columns",
)
def test_a_command_ends_and_leaves_the_terminal_as_it_was(
    name: str,
    kind: tuple[int, dict[str, str]],
    inputs: Callable[[str, Path], Path],
    tmp_path: Path,
) -> None:
    columns, environment = kind
    screen = terminal.fork(
        name, inputs(name, tmp_path), columns=columns, environment=environment, limit=120
    )
    assert screen.status == ALL[name].status, screen.drawn
    assert screen.cursor_shown and screen.line_clean, screen.drawn[-300:]
    assert "Traceback" not in screen.drawn and "Warning" not in screen.drawn, screen.drawn
    if columns == WIDE[0] and name in BARS:
        assert has_bar(name, screen), screen.drawn
    if environment:
        assert "\x1b[3" not in screen.drawn.replace("\x1b[3m", "")  # no colour; 3m is italic


@pytest.mark.sample(every=6)
@pytest.mark.parametrize(
    ("name", "environment"), in_turn(BARS, {"FORCE_COLOR": "1"}, {"TERM": "dumb"}), ids=str
)
def test_a_bar_is_drawn_where_the_terminal_can(
    name: str,
    environment: dict[str, str],
    inputs: Callable[[str, Path], Path],
    tmp_path: Path,
) -> None:
    screen = terminal.fork(name, inputs(name, tmp_path), environment=environment, limit=120)
    assert screen.status == ALL[name].status, screen.drawn
    assert screen.cursor_shown
    assert has_bar(name, screen) == ("dumb" not in environment.values()), screen.drawn


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("moment", [0.02, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("name", ["score", "simulate", "train", "verify", "export", "listen"])
def test_control_c_ends_a_command_with_one_line(
    name: str, moment: float, inputs: Callable[[str, Path], Path], tmp_path: Path
) -> None:
    screen = terminal.fork(name, inputs(name, tmp_path), interrupt_after=moment, limit=120)
    if screen.waited is None or screen.status == ALL[name].status != 130:
        return  # it was faster
    check_interrupted(screen)


def check_interrupted(screen: terminal.Screen) -> None:
    assert screen.status == 130, screen.drawn
    assert screen.drawn.rstrip().endswith("clinreadnet: interrupted"), screen.drawn
    assert screen.cursor_shown and "Traceback" not in screen.drawn
    assert screen.waited is not None and screen.waited < ANSWER_SECONDS


@pytest.mark.parametrize("moment", [0.1, 0.2, 0.4, 0.8])
def test_control_c_while_a_command_starts(moment: float, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    words = "listen --bundle bundle --spool spool --send-to 127.0.0.1:9:PACS --port 11118"
    program = (
        f"import sys; sys.argv = ['clinreadnet', *{words.split()}]\n"
        "from clinreadnet.cli import main\n"
        "print('here', flush=True); main()"
    )
    command = [sys.executable, "-c", program]
    screen = terminal.run(command, tmp_path, interrupt_after=moment, interrupt_at="here")
    check_interrupted(screen)


def test_control_c_while_the_command_line_is_imported(tmp_path: Path) -> None:
    program = (
        "import os, runpy, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'clinreadnet.cli':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "runpy.run_module('clinreadnet', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "clinreadnet: interrupted\n"


def test_control_c_as_the_command_begins(interruptible: None) -> None:
    program = (
        "import os, signal\n"
        "from clinreadnet.cli import main\n"
        "os.fstat = lambda number: os.kill(os.getpid(), signal.SIGINT)\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "clinreadnet: interrupted\n"


def test_a_wait_is_no_busy_machine(tmp_path: Path) -> None:
    program = "import time\nprint('here', flush=True)\ntry:\n    time.sleep(60)\n"
    program += "except KeyboardInterrupt:\n    time.sleep(0.5)"
    command = [sys.executable, "-c", program]
    screen = terminal.run(command, tmp_path, interrupt_after=0.1, interrupt_at="here")
    assert screen.waited is not None and screen.waited > 0.5
