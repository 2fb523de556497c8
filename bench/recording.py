"""Record a run: `make bench-record` writes bench/results/<machine>/<date>-<commit>.json."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import devices
from clinreadnet.checkout import git_commit
from clinreadnet.errors import InputError
from clinreadnet.files import whole_file
from clinreadnet.processor import cpu_name

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
COMMIT_VARIABLE = "CLINREADNET_COMMIT"
"""Environment variable with the measured commit, outside a git checkout."""


def current_commit() -> str | None:
    """Return the hash of the commit, or None outside a checkout."""
    return os.environ.get(COMMIT_VARIABLE) or git_commit(ROOT)


def run_facts(command: str) -> dict[str, Any]:
    """Return what a record says of its run: command, date, commit, processor and Python."""
    return {
        "command": command,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": current_commit(),
        "cpu": cpu_name(),
        "threads": os.cpu_count(),
        "python": platform.python_version(),
    }


def print_record(record: Mapping[str, Any]) -> int:
    """Print a record as JSON; return the exit status 0."""
    print(json.dumps(record, indent=1))
    return 0


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON, atomically. Its folder is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def results_name(commit: str) -> str:
    """Return the name of today's results of a commit."""
    return f"{datetime.now(UTC):%Y-%m-%d}-{commit[:7]}.json"


def results_of(folder: Path) -> Path:
    """Return the newest results of the current commit in a folder, or the path for new ones."""
    commit = (current_commit() or "uncommitted")[:7]
    begun = sorted(folder.glob(f"*-{commit}.json"))
    return begun[-1] if begun else folder / results_name(commit)


def measure(arguments: Sequence[str], recorded: Path) -> int:
    """Run benchmarks and write a JSON file; return pytest's exit status."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run([*command, f"--benchmark-json={recorded}"], cwd=ROOT).returncode


def main(arguments: Sequence[str]) -> int:
    """Measure, and keep the file if pytest completed."""
    from bench.measure.machine import this_machine

    try:
        arguments = devices.taken(arguments)
    except InputError as error:
        print(f"recording: {error}", file=sys.stderr)
        return 2
    commit = current_commit()
    if commit is None:
        print(f"recording: not a git checkout; set {COMMIT_VARIABLE}", file=sys.stderr)
        return 2
    path = RESULTS / this_machine() / results_name(commit)
    with tempfile.TemporaryDirectory() as folder:
        recorded = Path(folder) / "bench.json"
        status = measure([*(arguments or ["bench"]), "--thorough"], recorded)
        if status not in (0, 1) or not recorded.exists() or not recorded.stat().st_size:
            print(f"recording: nothing recorded, pytest ended with {status}", file=sys.stderr)
            return status or 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(recorded.read_bytes())
    print(f"recording: wrote {path.relative_to(ROOT)}", file=sys.stderr)
    # The file is kept even if a benchmark failed.
    return subprocess.run([sys.executable, "-m", "bench.tables"], cwd=ROOT).returncode or status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
