"""Fuzz the readers: ``python -m fuzz.run --minutes 30 --seed 1``, from the folder tests.

Cases run in a child process with a limit on its memory, and on the time of each case. A child that
dies or hangs is a finding, and another goes on after it. A finding is minimised and written to the
corpus, which `test_fuzz` reads again. `bench.records.fuzz` keeps the counts of a run.
"""

from __future__ import annotations

import argparse
import math
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzz.cases import READ, REFUSED, SEEDS, case, judge, kind_of

CORPUS = Path(__file__).parent / "corpus"
MEMORY = 3 * 2**30
"""Bytes of address space for a child: three times what its imports take."""
CASE_SECONDS = 5
"""Processor time of one case; a limit refuses within one second."""
_MARKS = {READ: b"+", REFUSED: b"-"}
_WRONG = b"!"


@dataclass(frozen=True)
class Run:
    """The cases of one seed, from number 0 on.

    Attributes:
        seed: seed of the cases.
        seconds: duration of the run in seconds.
        outcomes: a byte for each case: ``+`` read, ``-`` refused, ``!`` wrong.
        findings: what is wrong, by the case's number.
    """

    seed: int
    seconds: float
    outcomes: bytes
    findings: dict[int, str]

    def counts(self) -> dict[str, Counter[str]]:
        """Return the numbers of cases that were read, refused or wrong, by kind of file."""
        counts = {kind: Counter({"read": 0, "refused": 0, "wrong": 0}) for kind in SEEDS}
        words = {_MARKS[READ]: "read", _MARKS[REFUSED]: "refused", _WRONG: "wrong"}
        for number in range(len(self.outcomes)):
            word = words[self.outcomes[number : number + 1]]
            counts[kind_of(self.seed, number)][word] += 1
        return counts


def child(seed: int, first: int, last: float, seconds: float, folder: Path) -> None:
    """Run cases from number ``first`` on; write a mark for each one, and print findings."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # kills, wherever the case hangs
    end = time.monotonic() + seconds
    number = first
    with (folder / "outcomes").open("ab", buffering=0) as outcomes:
        while number < last and time.monotonic() < end:
            kind, content = case(seed, number)
            signal.setitimer(signal.ITIMER_PROF, CASE_SECONDS)
            verdict = judge(kind, content, folder)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if verdict not in _MARKS:
                print(f"{number} {verdict}", flush=True)
            outcomes.write(_MARKS.get(verdict, _WRONG))
            number += 1


def fuzz(seed: int, seconds: float, cases: float = math.inf) -> Run:
    """Run cases for some seconds, or up to a number of them."""
    findings: dict[int, str] = {}
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=_fast()) as scratch:
        outcomes = Path(scratch, "outcomes")
        number = 0
        while number < cases and (left := start + seconds - time.monotonic()) > 0:
            arguments = [str(seed), str(number), str(cases), str(left), scratch]
            done = subprocess.run(
                [sys.executable, "-m", "fuzz.run", "--child", *arguments],
                capture_output=True,
                text=True,
                cwd=Path(__file__).parent.parent,
            )
            if not outcomes.exists():
                raise RuntimeError(done.stderr)
            for line in done.stdout.splitlines():
                word, _, rest = line.partition(" ")
                findings[int(word)] = rest
            if done.returncode:
                wrong = f"the child ended with status {done.returncode}"
                findings.setdefault(outcomes.stat().st_size, wrong)
                with outcomes.open("ab") as file:
                    file.write(_WRONG)
            number = outcomes.stat().st_size
        return Run(seed, time.monotonic() - start, outcomes.read_bytes(), findings)


def minimise(kind: str, content: bytes, folder: Path) -> bytes:
    """Return a shorter case with the same kind of error."""
    wrong = judge(kind, content, folder).partition(":")[0]
    size = len(content) // 2
    while wrong not in _MARKS and size:
        at = 0
        while at < len(content):
            shorter = content[:at] + content[at + size :]
            if judge(kind, shorter, folder).partition(":")[0] == wrong:
                content = shorter
            else:
                at += size
        size //= 2
    return content


def _fast() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def main(arguments: Sequence[str]) -> Run:
    """Run from the command line; print what is wrong and keep it in the corpus."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1, help="time to run for")
    parser.add_argument("--cases", type=int, default=math.inf, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    run = fuzz(options.seed, 60 * options.minutes, options.cases)
    print(f"{len(run.outcomes)} cases of {', '.join(SEEDS)}; {len(run.findings)} findings")
    for number, wrong in sorted(run.findings.items()):
        kind, content = case(options.seed, number)
        with tempfile.TemporaryDirectory() as folder:
            if not wrong.startswith("the child"):
                content = minimise(kind, content, Path(folder))
        target = CORPUS / f"{kind}-{options.seed}-{number}"
        target.write_bytes(content)
        print(f"{target}: {wrong}")
    return run


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        seed, first, last, seconds, folder = sys.argv[2:]
        child(int(seed), int(first), float(last), float(seconds), Path(folder))
    else:
        sys.exit(1 if main(sys.argv[1:]).findings else 0)
