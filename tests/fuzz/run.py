"""Fuzz the readers: ``python -m fuzz.run --minutes 30 --seed 1``, from the folder tests.

Cases run in a child process with a limit on its memory, and on the time of each case. A child that
dies or hangs is a finding, and another goes on after it. A finding is minimised and written to the
corpus, which `test_fuzz` reads again.
"""

from __future__ import annotations

import argparse
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fuzz.cases import SEEDS, case, judge

CORPUS = Path(__file__).parent / "corpus"
MEMORY = 3 * 2**30
"""Bytes of address space for a child: three times what its imports take."""
CASE_SECONDS = 5
"""Processor time of one case; a limit refuses within one second."""


def child(seed: int, first: int, seconds: float, folder: Path) -> None:
    """Run cases from number ``first`` on; print the number of each that begins, and findings."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # kills, wherever the case hangs
    end = time.monotonic() + seconds
    number = first
    while time.monotonic() < end:
        kind, content = case(seed, number)
        (folder / "number").write_text(str(number))
        signal.setitimer(signal.ITIMER_PROF, CASE_SECONDS)
        wrong = judge(kind, content, folder)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if wrong is not None:
            print(f"{number} {wrong}", flush=True)
        number += 1
    print(f"end {number}", flush=True)


def fuzz(seed: int, seconds: float) -> tuple[int, dict[int, str]]:
    """Run for some seconds; return the number of cases, and what is wrong with which."""
    findings: dict[int, str] = {}
    number, end = 0, time.monotonic() + seconds
    with tempfile.TemporaryDirectory(dir=_fast()) as scratch:
        while (left := end - time.monotonic()) > 0:
            arguments = [str(seed), str(number), str(left), scratch]
            done = subprocess.run(
                [sys.executable, "-m", "fuzz.run", "--child", *arguments],
                capture_output=True,
                text=True,
                cwd=Path(__file__).parent.parent,
            )
            for line in done.stdout.splitlines():
                word, _, rest = line.partition(" ")
                if word == "end":
                    number = int(rest)
                else:
                    findings[int(word)] = rest
            if done.returncode:
                mark = Path(scratch, "number")
                if not mark.exists():
                    raise RuntimeError(done.stderr)
                number = int(mark.read_text())
                findings[number] = f"the child ended with status {done.returncode}"
                number += 1
    return number, findings


def minimise(kind: str, content: bytes, folder: Path) -> bytes:
    """Return a shorter case with the same kind of error."""
    wrong = (judge(kind, content, folder) or "").partition(":")[0]
    size = len(content) // 2
    while wrong and size:
        at = 0
        while at < len(content):
            shorter = content[:at] + content[at + size :]
            if (judge(kind, shorter, folder) or "").partition(":")[0] == wrong:
                content = shorter
            else:
                at += size
        size //= 2
    return content


def _fast() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def main() -> int:
    """Run from the command line; status 1: something is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=4)
    options = parser.parse_args()
    if options.child:
        seed, first, seconds, folder = options.child
        child(int(seed), int(first), float(seconds), Path(folder))
        return 0
    count, findings = fuzz(options.seed, 60 * options.minutes)
    print(f"{count} cases of {', '.join(SEEDS)}; {len(findings)} findings")
    for number, wrong in sorted(findings.items()):
        kind, content = case(options.seed, number)
        with tempfile.TemporaryDirectory() as folder:
            if not wrong.startswith("the child"):
                content = minimise(kind, content, Path(folder))
        target = CORPUS / f"{kind}-{options.seed}-{number}"
        target.write_bytes(content)
        print(f"{target}: {wrong}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
