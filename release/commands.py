"""Commands of the checks of a release."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent


def run(
    command: Sequence[str | Path], cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it printed; fail with that if it fails."""
    # Nothing of this checkout is found by accident.
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}"
    return done


def copy_of_checkout(to: Path) -> Path:
    """Copy the files that git tracks, or would."""
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def empty_environment(folder: Path) -> Path:
    """Make a virtual environment without packages, and return its Python."""
    run([sys.executable, "-m", "venv", folder])
    return folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"


def timed(command: Sequence[str | Path], cwd: Path | None = None) -> tuple[float, float]:
    """Run a command; return its seconds by the clock, and those that its processes computed."""
    start, before = time.monotonic(), os.times()
    run(command, cwd)
    seconds, after = time.monotonic() - start, os.times()
    computed = after.children_user + after.children_system
    return seconds, computed - before.children_user - before.children_system
