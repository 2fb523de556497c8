"""The record of `make faults RECORD=1`: tests/cli/test_faults.py runs the commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bench.recording import run_facts


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
        **run_facts(f"make faults MOMENTS={moments} RECORD=1"),
        "commands": commands,
        "moments": moments,
        "faults": tally,
    }
    path.write_text(json.dumps(facts, indent=1) + "\n")
