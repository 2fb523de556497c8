"""The record of `make faults RECORD=1`: tests/cli/test_faults.py runs the commands."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from clinreadnet.machine import cpu_name, git_commit


def write_faults(
    path: Path, tally: Mapping[str, Mapping[str, int]], *, commands: int, moments: int
) -> None:
    """Write what became of the outputs of commands.

    Args:
        path: JSON file.
        tally: numbers of outputs, by kind of fault and by what they were afterwards.
        commands: number of commands that ran.
        moments: at which each fault came, for each command.
    """
    facts = {
        "command": f"make faults MOMENTS={moments} RECORD=1",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": git_commit(),
        "cpu": cpu_name(),
        "threads": os.cpu_count(),
        "python": platform.python_version(),
        "commands": commands,
        "moments": moments,
        "faults": tally,
    }
    path.write_text(json.dumps(facts, indent=1) + "\n")
