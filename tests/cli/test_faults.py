"""Commands that are ended, or whose disk is full, fills up or is read-only, at any moment.

Afterwards each output is the old one or the new one, whole, and nothing else is there. A command
that was killed, or ended while it cleaned up, may leave a hidden temporary folder, which the next
one removes.
``CLINREADNET_FAULTS`` is the number of moments for each command and fault; ``make faults`` tries
more of them. ``CLINREADNET_FAULTS_RECORD`` is a JSON file for what became of all of them, from
which `bench.tables.security` makes a table.
"""

from __future__ import annotations

import functools
import hashlib
import os
import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("ray")
pytest.importorskip("triton")
pytest.importorskip("cryptography")

from support.fault_commands import COMMANDS, Command
from support.faults import Ended, Fault, can_mount, run

from bench.records.faults import write_faults
from clinreadnet.model.network import PRESETS

MOMENTS = int(os.environ.get("CLINREADNET_FAULTS", 1))
ENDED = (
    list(COMMANDS)
    if MOMENTS > 1
    else ["score", "score-archive", "verify-record", "export", "simulate", "train"]
)
"""Commands that are ended by a signal; `make test` kills one half and terminates the other, and
`make faults` tries all of them."""
ON_DISKS = list(COMMANDS) if MOMENTS > 1 else ["score", "simulate", "verify-record"]
"""Commands on disks of their own: they write a file, a folder and a manifest. `make faults` tries
all of them."""
STRAY = re.compile(r"\..+\.writing")
INTERRUPTED = {"train": 130}
"""Status after SIGTERM where it is not 143: training notes it and ends after the step."""
TALLY: dict[str, Counter[str]] = {}
"""What became of the outputs, by kind of fault."""


@pytest.fixture(scope="module", autouse=True)
def record() -> Iterator[None]:
    yield
    if path := os.environ.get("CLINREADNET_FAULTS_RECORD"):
        write_faults(Path(path), TALLY, commands=len(COMMANDS), moments=MOMENTS)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Ended]]:
    """Return the inputs and old outputs of a command, and how it ends without a fault."""

    @functools.cache
    def make(name: str) -> tuple[Path, Ended]:
        folder = tmp_path_factory.mktemp(name)
        presets = dict(PRESETS)
        COMMANDS[name].make(folder / "before")
        assert presets == PRESETS  # only a command's own process may change them
        trial = shutil.copytree(folder / "before", folder / "after")
        ended = run(name, COMMANDS[name].arguments.split(), trial)
        assert ended.status == COMMANDS[name].status, ended.stderr
        check(COMMANDS[name], folder / "before", trial, ended)
        for output in COMMANDS[name].outputs:
            assert tree(trial / "out" / output) != tree(folder / "before" / "out" / output)
        return folder / "before", ended

    return make


def tree(path: Path) -> dict[str, str]:
    """Return the digest of a file, or of each file below a folder; empty if nothing exists."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }


def strays(out: Path) -> list[str]:
    return [path.name for path in out.rglob("*") if STRAY.fullmatch(path.name)]


def check(command: Command, before: Path, trial: Path, ended: Ended) -> None:
    """Check the files after a command has ended."""
    assert "Traceback" not in ended.stderr
    assert tree(trial / "in") == tree(before / "in")
    if ended.status in (0, 1, 2):
        assert strays(trial / "out") == []
    names = {path.name for path in (trial / "out").iterdir()}
    assert {name for name in names if not STRAY.fullmatch(name)} <= set(command.outputs)
    for name, whole in command.outputs.items():
        output, old = trial / "out" / name, tree(before / "out" / name)
        if tree(output) != old:
            assert whole(output), name
        else:
            assert ended.status != command.status
    if ended.status == 2:
        assert ended.stderr.splitlines()[-1].startswith("clinreadnet: "), ended.stderr


def moments(name: str, fault: str, events: int) -> list[int]:
    """Return numbers of events, drawn for a command and a fault."""
    draw = random.Random(f"{name}/{fault}")
    return sorted(draw.sample(range(1, events + 1), min(MOMENTS, events)))


def broken(kind: str, name: str, before: Path, trial: Path, fault: Fault) -> Ended:
    """Run a command on a copy of its inputs under a fault, and check the files."""
    shutil.copytree(before, trial)
    ended = run(name, COMMANDS[name].arguments.split(), trial, fault)
    tally = TALLY.setdefault(kind, Counter(old=0, new=0, both=0, wrong=0))
    try:
        check(COMMANDS[name], before, trial, ended)
    except BaseException:
        tally["wrong"] += 1
        raise
    changed = {
        tree(trial / "out" / output) != tree(before / "out" / output)
        for output in COMMANDS[name].outputs
    }
    tally["both" if len(changed) == 2 else "new" if changed.pop() else "old"] += 1
    return ended


def again(name: str, before: Path, trial: Path) -> None:
    """Run a command again, to its end, after it was interrupted."""
    arguments = COMMANDS[name].arguments.split()
    if (trial / "out" / "run" / "last.pt").exists():
        arguments.append("--resume")
    ended = run(name, arguments, trial)
    assert ended.status == COMMANDS[name].status, ended.stderr
    check(COMMANDS[name], before, trial, ended)
    assert tree(trial / "out") != tree(before / "out")


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("name", ENDED[::-1])
def test_a_killed_command_leaves_old_or_new_and_the_next_cleans_up(
    name: str, template: Callable[[str], tuple[Path, Ended]], tmp_path: Path
) -> None:
    before, undisturbed = template(name)
    for at in moments(name, "kill", undisturbed.events):
        trial = tmp_path / str(at)
        ended = broken("SIGKILL", name, before, trial, Fault(signal.SIGKILL, at))
        assert ended.status == -signal.SIGKILL
        again(name, before, trial)


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("name", ENDED)
def test_a_terminated_command_leaves_old_or_new(
    name: str, template: Callable[[str], tuple[Path, Ended]], tmp_path: Path
) -> None:
    before, undisturbed = template(name)
    for at in moments(name, "terminate", undisturbed.events):
        trial = tmp_path / str(at)
        ended = broken("SIGTERM", name, before, trial, Fault(signal.SIGTERM, at))
        stopped = INTERRUPTED.get(name, 128 + signal.SIGTERM)
        assert ended.status in (COMMANDS[name].status, stopped), ended.stderr
        if strays(trial / "out"):  # it was ended while it cleaned up
            again(name, before, trial)


@pytest.mark.skipif(MOMENTS < 2, reason="random moments take long; make faults tries them")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["terminate", "kill"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_at_a_random_time(
    name: str,
    number: signal.Signals,
    template: Callable[[str], tuple[Path, Ended]],
    tmp_path: Path,
) -> None:
    before, undisturbed = template(name)
    draw = random.Random(f"{name}/{number}")
    for count in range(MOMENTS):
        trial = tmp_path / str(count)
        fault = Fault(number, after=draw.uniform(0.01, undisturbed.seconds))
        broken(f"{number.name}, at any time", name, before, trial, fault)
        again(name, before, trial)


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fills_up_is_one_line_and_nothing_is_half_written(
    name: str, template: Callable[[str], tuple[Path, Ended]], tmp_path: Path
) -> None:
    before, undisturbed = template(name)
    for at in moments(name, "full", undisturbed.events):
        ended = broken("files cannot be made", name, before, tmp_path / str(at), Fault(full=at))
        check_refusal(name, ended, "No space left on device")


def check_refusal(name: str, ended: Ended, reason: str) -> None:
    """Check that a command succeeded, or that its last line gives the reason."""
    assert ended.status in (COMMANDS[name].status, 2), ended.stderr
    if ended.status != COMMANDS[name].status:
        assert re.search(reason, ended.stderr.splitlines()[-1]), ended.stderr


@pytest.fixture(scope="module")
def own_disk() -> None:
    if not can_mount():
        pytest.skip("needs the right to mount a disk, as root has")


@pytest.mark.parametrize("name", ON_DISKS)
def test_a_disk_that_is_full_or_read_only_is_found_before_the_work(
    name: str, template: Callable[[str], tuple[Path, Ended]], tmp_path: Path, own_disk: None
) -> None:
    before, _ = template(name)
    for kind, fault in (
        ("a full disk", Fault(free=0)),
        ("a read-only disk", Fault(read_only=True)),
    ):
        ended = broken(kind, name, before, tmp_path / kind, fault)
        assert ended.status == 2
        check_refusal(name, ended, "space|free|Read-only|write-protected")
        assert tree(tmp_path / kind / "out") == tree(before / "out")


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("name", ON_DISKS)
def test_a_disk_that_fills_up_in_the_middle(
    name: str, template: Callable[[str], tuple[Path, Ended]], tmp_path: Path, own_disk: None
) -> None:
    before, _ = template(name)
    needed = size_of(before.parent / "after" / "out") + 8 * 4096
    draw = random.Random(f"{name}/disk")
    for count in range(MOMENTS):
        fault = Fault(free=draw.randrange(4096, needed), hide_space=True)
        ended = broken("a disk that fills up", name, before, tmp_path / str(count), fault)
        check_refusal(name, ended, "No space left on device")


@pytest.mark.parametrize("name", ON_DISKS)
def test_a_file_that_may_not_grow_as_large_as_it_must(
    name: str, template: Callable[[str], tuple[Path, Ended]], tmp_path: Path
) -> None:
    before, _ = template(name)
    paths = (before.parent / "after" / "out").rglob("*")
    most = max(path.stat().st_size for path in paths if path.is_file())
    draw = random.Random(f"{name}/largest")
    for count in range(MOMENTS):
        fault = Fault(largest=max(draw.randrange(most), 1024))
        ended = broken("a limit on sizes", name, before, tmp_path / str(count), fault)
        check_refusal(name, ended, "File too large|No space left")
