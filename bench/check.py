"""Compare with the last committed results of this machine (`make bench-check`).

Each row is PASS, FAIL (slower than recorded) or INCONCLUSIVE (the variation is too large).
Undecided rows are measured again until they are decided or the time limit ``--minutes`` is reached.
Exit status 0: all pass; 1: a row fails; 3: none fails and some are inconclusive; 2: nothing to
compare. `python -m bench.check FILE` compares a recorded run without measuring.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import devices
from bench.decision import LOOKS, Decision, Times, Verdict, decide
from bench.measure.machine import this_machine
from bench.recording import RESULTS, ROOT, measure
from bench.results import RecordedRun, newest_runs, read_run
from bench.rows import BenchRow
from clinreadnet.errors import ClinReadNetError, InputError

BENCH = "bench/test_network.py"
DEPLOYED = "test_network and not torch"
"""Selection of rows to measure: deployable artifacts and their peers, without compilers."""
MINUTES = 10.0
MOST_ROUNDS = 1000
"""Largest number of rounds of a repeat of an undecided row."""
EXIT = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}

Measure = Callable[[Sequence[str], int], Sequence[BenchRow]]
"""Function that measures the named rows (or all) with a least number of rounds."""


def compare(
    before: Sequence[BenchRow],
    now: Sequence[BenchRow],
    again: Measure | None = None,
    *,
    seconds: float = 60 * MINUTES,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Decision]:
    """Decide each row that both runs have.

    Args:
        before: rows of the recorded run.
        now: measured rows.
        again: function that measures undecided rows again; None for no repeats.
        seconds: time after which no repeat begins.
        clock: function that returns the time in seconds.

    Returns:
        A decision for each row by name.
    """
    recorded = {row.name: Times.of(row) for row in before}
    times = {row.name: [Times.of(row)] for row in now if row.name in recorded}
    start = clock()
    decisions: dict[str, Decision] = {}
    for look in range(LOOKS):
        decisions = {
            name: decide(recorded[name], Times.pooled(runs)) for name, runs in times.items()
        }
        open_rows = [name for name, decision in decisions.items() if decision.more]
        late = look == LOOKS - 1 or clock() - start >= seconds
        if again is None or not open_rows or late:
            break
        rounds = min(MOST_ROUNDS, max(decisions[name].more or 0 for name in open_rows))
        for row in again(open_rows, rounds):
            if row.name in open_rows:
                times[row.name].append(Times.of(row))
    return decisions


def lines(decisions: Mapping[str, Decision], rows: Sequence[BenchRow]) -> list[str]:
    """Return a line for each row that does not pass."""
    recorded = {row.name: row for row in rows}
    out = []
    for name, decision in decisions.items():
        if decision.verdict is Verdict.PASS:
            continue
        line = (
            f"{decision.verdict.value} {name}: {100 * (decision.slowdown - 1):+.0f} % "
            f"({100 * (decision.low - 1):+.0f} … {100 * (decision.high - 1):+.0f} %) against "
            f"{1e3 * recorded[name].p50:.4g} ms"
        )
        if decision.verdict is Verdict.INCONCLUSIVE:
            line += (
                f"; about {decision.more} more rounds would decide"
                if decision.more
                else f"; the recorded run is too uncertain ({recorded[name].n} rounds): "
                "run `make bench-record`"
            )
        out.append(line)
    return out


def verdict_of(decisions: Mapping[str, Decision]) -> Verdict:
    """Return the overall verdict."""
    verdicts = {decision.verdict for decision in decisions.values()}
    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS


def measure_rows(names: Sequence[str] = (), rounds: int = 0) -> Sequence[BenchRow]:
    """Measure rows with pytest.

    Args:
        names: names of rows; default all deployable artifacts and peers.
        rounds: least number of rounds per row.

    Raises:
        InputError: pytest failed.
    """
    chosen = [f"{BENCH}::{name}" for name in names] if names else [BENCH, "-k", DEPLOYED]
    with tempfile.TemporaryDirectory() as folder:
        recorded = Path(folder) / "bench.json"
        if status := measure([*chosen, *(["--rounds", str(rounds)] if rounds else [])], recorded):
            raise InputError(f"bench-check: pytest ended with {status}, nothing compared")
        return read_run(recorded).rows


def committed(run: RecordedRun) -> bool:
    """Return whether the file is committed and unchanged."""
    command = ["git", "status", "--porcelain", "--", str(run.path)]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return listed.returncode == 0 and not listed.stdout.strip()


def main(arguments: Sequence[str]) -> int:
    """Compare, print rows that do not pass, and return the exit status."""
    parser = argparse.ArgumentParser(prog="bench-check", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="compare this run, measure nothing")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="limit of the repeats")
    try:
        options = parser.parse_args(devices.taken(arguments))
        (before,) = newest_runs(RESULTS, this_machine())
        if not committed(before):
            raise InputError(
                f"{before.path}: not committed; commit it, or compare with one that is"
            )
        now = read_run(options.file).rows if options.file else measure_rows()
        if before.rows and now and before.rows[0].weights_sha256 != now[0].weights_sha256:
            raise InputError(
                f"{before.path}: of another checkpoint; run `make bench-record` with this one"
            )
        again = None if options.file else measure_rows
        decisions = compare(before.rows, now, again, seconds=60 * options.minutes)
    except ClinReadNetError as error:
        print(f"bench-check: {error}", file=sys.stderr)
        return error.exit_code
    if not decisions:
        print(f"bench-check: no row in common with {before.path}", file=sys.stderr)
        return 2
    for line in lines(decisions, before.rows):
        print(line)
    verdict = verdict_of(decisions)
    passed = sum(decision.verdict is Verdict.PASS for decision in decisions.values())
    print(
        f"bench-check: {verdict.value}: {passed} of {len(decisions)} rows pass against "
        f"{before.path.name}",
        file=sys.stderr,
    )
    return EXIT[verdict]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
