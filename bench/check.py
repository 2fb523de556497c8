"""Compare with the last committed results of this machine: `make bench-check`.

It fails, and names the row, if a row is more than 10 % slower and the two 95 % intervals do not
overlap.
`python -m bench.check FILE` compares a run that is already recorded.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import devices
from bench.measure.machine import this_machine
from bench.recording import RESULTS, ROOT, measure
from clinreadnet.errors import ClinReadNetError, InputError
from clinreadnet.report.results import RecordedRun, newest_runs, read_run
from clinreadnet.report.rows import BenchRow

SLOWER = 1.10
BENCHES = ("bench/test_network.py", "-k", "test_network and not torch")
"""Measured again: everything that is deployed and its peers, without compilers."""


def regressions(before: Sequence[BenchRow], now: Sequence[BenchRow]) -> list[str]:
    """Return a line for each row that became significantly slower."""
    old = {row.name: row for row in before}
    return [
        f"{row.name}: {_milliseconds(row)}, was {_milliseconds(was).replace(' ms', '')}: "
        f"{100 * (row.p50 / was.p50 - 1):.0f} % slower"
        for row in now
        if (was := old.get(row.name))
        and row.p50 > SLOWER * was.p50
        and row.interval[0] > was.interval[1]
    ]


def _milliseconds(row: BenchRow) -> str:
    p50, low, high = (1e3 * seconds for seconds in (row.p50, *row.interval))
    return f"{p50:.4g} ms ({low:.4g} … {high:.4g})"


def committed(run: RecordedRun) -> bool:
    """Return whether the file is committed without changes."""
    command = ["git", "status", "--porcelain", "--", str(run.path)]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return listed.returncode == 0 and not listed.stdout.strip()


def main(arguments: Sequence[str]) -> int:
    """Compare; exit status 1 names the rows, 2 says what is missing."""
    try:
        arguments = devices.taken(arguments)
        (before,) = newest_runs(RESULTS, this_machine())
        if not committed(before):
            raise InputError(
                f"{before.path}: not committed; commit it, or compare with one that is"
            )
        if arguments:
            now = read_run(Path(arguments[0]))
        else:
            with tempfile.TemporaryDirectory() as folder:
                recorded = Path(folder) / "bench.json"
                if status := measure(BENCHES, recorded):
                    raise InputError(f"bench-check: pytest ended with {status}, nothing compared")
                now = read_run(recorded)
    except ClinReadNetError as error:
        print(f"bench-check: {error}", file=sys.stderr)
        return error.exit_code
    shared = {row.name for row in now.rows} & {row.name for row in before.rows}
    if not shared:
        print(f"bench-check: no row in common with {before.path}", file=sys.stderr)
        return 2
    slower = regressions(before.rows, now.rows)
    for line in slower:
        print(line)
    where = before.path.name
    print(f"bench-check: {len(slower)} of {len(shared)} rows slower than {where}", file=sys.stderr)
    return int(bool(slower))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
