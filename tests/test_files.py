"""Whole files and folders: two processes that write the same one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clinreadnet import files
from clinreadnet.errors import InputError
from clinreadnet.files import whole_folder


def write(folder: Path, text: str) -> None:
    (folder / "file").write_text(text)


@pytest.mark.parametrize("force", [False, True])
def test_of_two_writers_the_first_to_end_stays_and_the_other_is_told(
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


def test_two_that_replace_one_folder_leave_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one puts its folder in place between our two renames."""
    import os

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
            monkeypatch.setattr(files, "_exchange", lambda made, place: False)
            monkeypatch.setattr(os, "replace", interrupted)
    assert (target / "file").read_text() == "theirs"


def test_a_rename_that_fails_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

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
            monkeypatch.setattr(files, "_exchange", lambda made, place: False)
            monkeypatch.setattr(os, "replace", full)
    assert (target / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
