"""Write the record of `make faults RECORD=1`; tests/cli/test_faults.py runs the commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.recording import run_facts, write_record


def write_faults(
    path: Path, tally: Mapping[str, Mapping[str, int]], *, commands: int, moments: int
) -> None:
    """Write the number of outputs by fault and state.

    Args:
        path: JSON file.
        tally: number of outputs, by kind of fault and resulting state.
        commands: number of commands.
        moments: number of times at which each fault is injected, per command.
    """
    facts = {
        **run_facts(f"make faults MOMENTS={moments} RECORD=1"),
        "commands": commands,
        "moments": moments,
        "faults": tally,
    }
    write_record(path, facts)
