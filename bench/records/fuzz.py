"""Fuzz the readers and keep the counts: `make fuzz RECORD=1`.

The options are those of ``python -m fuzz.run`` (in `tests/`).
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fuzz.run import Run
from fuzz.run import main as fuzz

from bench.recording import RESULTS, run_facts, write_record

RECORD = RESULTS / "security" / "fuzz.json"


def record(run: Run, command: str, path: Path = RECORD) -> None:
    """Add a run to the record; an earlier run of the same seed is replaced."""
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    new = run_facts(command) | {
        "seed": run.seed,
        "minutes": round(run.seconds / 60, 1),
        "cases": len(run.outcomes),
        "kinds": run.counts(),
        "findings": {str(number): wrong for number, wrong in run.findings.items()},
    }
    runs = [earlier for earlier in runs if earlier["seed"] != run.seed] + [new]
    write_record(path, {"runs": runs})


def main(arguments: Sequence[str]) -> int:
    """Fuzz and record; status 1: something is wrong."""
    run = fuzz(arguments)
    record(run, f"python -m bench.records.fuzz {shlex.join(arguments)}")
    return 1 if run.findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
