"""Whole files and folders: two processes that write the same one."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from clinreadnet import files
from clinreadnet.errors import InputError
from clinreadnet.files import whole_folder


def write(folder: Path, text: str) -> None:
    (folder / "file").write_text(text)


@pytest.mark.parametrize("force", [False, True])
def test_of_two_writers_the_first_to_end_wins_and_the_other_fails(
    tmp_path: Path, force: bool
) -> None:
    target = tmp_path / "bundle"
    code = (
        "import sys; from pathlib import Path; from clinreadnet.files import whole_folder\n"
        "with whole_folder(sys.argv[1]) as folder:\n"
        "    (folder / 'file').write_text('theirs')\n"
    )
    writing = whole_folder(target, force=force)
    write(writing.__enter__(), "ours")
    subprocess.run([sys.executable, "-c", code, target], check=True)
    if force:  # asked to replace what is there, and does
        writing.__exit__(None, None, None)
        assert (target / "file").read_text() == "ours"
    else:
        with pytest.raises(InputError, match="another process wrote it meanwhile"):
            writing.__exit__(None, None, None)
        assert (target / "file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_two_processes_that_replace_a_folder_leave_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process moves its folder in place between our two renames."""
    target = tmp_path / "bundle"
    target.mkdir()
    write(target, "old")
    replace = os.replace

    def interrupted(source: Path, destination: Path) -> None:
        replace(source, destination)
        if Path(destination).name == "old":
            target.mkdir()
            write(target, "theirs")

    with pytest.raises(InputError, match="another process"):
        with whole_folder(target, force=True) as folder:
            write(folder, "ours")
            monkeypatch.setattr(sys, "platform", "aix")  # it cannot exchange two folders
            monkeypatch.setattr(os, "replace", interrupted)
    assert (target / "file").read_text() == "theirs"


def test_a_rename_that_fails_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    write(target, "old")
    replace = os.replace

    def full(source: Path, destination: Path) -> None:
        if Path(source).name == "new":
            raise OSError(28, "No space left on device")
        replace(source, destination)

    with pytest.raises(OSError, match="No space left"):
        with whole_folder(target, force=True) as folder:
            write(folder, "new")
            monkeypatch.setattr(sys, "platform", "aix")  # it cannot exchange two folders
            monkeypatch.setattr(os, "replace", full)
    assert (target / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def write_text(target: Path | str, text: str = "new") -> None:
    with files.whole_file(target) as temporary:
        temporary.write_text(text)


def test_a_link_stays_and_its_target_keeps_its_mode(tmp_path: Path) -> None:
    real, link = tmp_path / "real" / "a.csv", tmp_path / "a.csv"
    real.parent.mkdir()
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text(link)
    assert link.is_symlink() and real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert [p.name for p in real.parent.iterdir()] == ["a.csv"]


def test_a_broken_link_is_written_at_its_target(tmp_path: Path) -> None:
    (tmp_path / "a.csv").symlink_to("b.csv")
    write_text(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").is_symlink() and (tmp_path / "b.csv").read_text() == "new"


def test_a_pipe_is_written_through(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(pipe.read_text)
        write_text(pipe)
        assert reading.result(30) == "new"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_through() -> None:
    before = os.stat("/dev/null")
    write_text("/dev/null")
    assert os.path.samestat(before, os.stat("/dev/null"))


@pytest.mark.parametrize("target", ["-", "/dev/stdout", "/proc/self/fd/1"])
def test_standard_output_is_written_through(target: str, tmp_path: Path) -> None:
    code = (
        "import sys; from clinreadnet.files import whole_file\n"
        "print('before')\n"
        "with whole_file(sys.argv[1]) as path: path.write_text('new')\n"
    )
    into = tmp_path / "out"
    for stdout in (subprocess.PIPE, into.open("w")):
        done = subprocess.run([sys.executable, "-c", code, target], stdout=stdout, check=True)
        written = into.read_bytes() if done.stdout is None else done.stdout
        assert written == b"before\nnew"
    assert os.path.islink("/dev/stdout")


def test_an_input_is_not_an_output(tmp_path: Path) -> None:
    source, link = tmp_path / "a.dcm", tmp_path / "b.csv"
    source.write_text("slice")
    os.link(source, link)
    with pytest.raises(InputError, match="is also an input"):
        files.check_output(link, inputs=[source])
    with pytest.raises(InputError, match="holds an input"):
        files.check_output_folder(tmp_path, force=True, inputs=[source])


@pytest.mark.parametrize("name", ["a.htm", "A.HTML", ".html"])
def test_a_name_that_ends_in_a_suffix_is_accepted(name: str, tmp_path: Path) -> None:
    files.check_output(tmp_path / name, suffixes=(".html", ".htm"))
    for other in (f"{name}.", f"{name}x", "html"):
        with pytest.raises(InputError, match="give a name that ends in .html or .htm"):
            files.check_output(tmp_path / other, suffixes=(".html", ".htm"))


def test_space_is_looked_for_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.check_output(tmp_path / "a", size=1000)
    free = SimpleNamespace(free=2**21)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    files.check_output(tmp_path / "a", size=1000)
    with pytest.raises(InputError, match="needs about 11 MB, and 2 MB are free"):
        files.check_output(tmp_path / "a", size=10**7)


def test_a_folder_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    for target in (Path("/proc/a"), tmp_path / ("n" * 300)):
        with pytest.raises(InputError, match="cannot be written"):
            files.check_output(target)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        files.check_output(tmp_path / "nowhere" / "a")


@pytest.mark.parametrize("where", ["block", "flush", "rename"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "a.csv"
    target.write_text("old")
    with pytest.raises(OSError, match="No space left") as failure:
        with files.whole_file(target) as temporary:
            temporary.write_text("new")
            monkeypatch.setattr(os, "fsync" if where == "flush" else "replace", full)
            if where == "block":
                full()
    assert failure.value.filename == str(target)
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_a_short_write_of_numpy_is_a_full_disk(tmp_path: Path) -> None:
    target = tmp_path / "a.npy"
    with pytest.raises(OSError, match="No space left") as failure, files.whole_file(target):
        raise OSError("262144 requested and 2000 written")
    assert failure.value.filename == str(target) and list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
from pathlib import Path
from clinreadnet.files import whole_file, whole_folder
place = Path(sys.argv[1])
print("ready", flush=True)
while True:
    for text in ("a" * 70000, "b" * 70000):
        with whole_file(place / "file") as path:
            path.write_text(text)
        with whole_folder(place / "folder", force=True) as folder:
            for name in "xy":
                (folder / name).write_text(text)
"""


def test_a_writer_killed_at_any_moment_leaves_old_or_new_and_the_next_cleans_up(
    tmp_path: Path,
) -> None:
    draw = random.Random(0)
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0.0, 0.2))
        writer.kill()
        writer.wait()
        writer.stdout.close()
        files.check_output(tmp_path / "file")
        assert {p.name for p in tmp_path.iterdir()} <= {"file", "folder"}
        for path in (tmp_path / "file", tmp_path / "folder" / "x", tmp_path / "folder" / "y"):
            if path.exists():
                text = path.read_text()
                assert len(text) == 70000 and len(set(text)) == 1
        if (tmp_path / "folder").exists():
            texts = {(tmp_path / "folder" / name).read_text() for name in "xy"}
            assert len(texts) == 1


def test_the_folder_of_a_writer_at_work_is_not_stale(tmp_path: Path) -> None:
    with files.whole_file(tmp_path / "a") as temporary:
        temporary.write_text("ours")
        files.check_output(tmp_path / "b")
        write_text(tmp_path / "c")
    assert (tmp_path / "a").read_text() == "ours"
