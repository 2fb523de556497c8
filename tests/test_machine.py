"""The processor, and where a recorded result says that it came from."""

import subprocess
from pathlib import Path

import pytest

from clinreadnet import machine


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param("processor\t: 0\nmodel name\t: A: B\nmodel name\t: C\n", "A: B", id="linux"),
        pytest.param("processor\t: 0\n", "fallback", id="no-name"),
        pytest.param(None, "fallback", id="other-system"),
    ],
)
def test_the_processor_is_named(
    monkeypatch: pytest.MonkeyPatch, text: str | None, name: str
) -> None:
    def read(path: Path, encoding: str) -> str:
        if text is None:
            raise FileNotFoundError
        return text

    monkeypatch.setattr(machine.Path, "read_text", read)
    monkeypatch.setattr(machine.platform, "processor", lambda: "fallback")
    assert machine.cpu_name() == name
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    assert machine.cpu_name() == (name if name != "fallback" else "unknown processor")


@pytest.mark.parametrize(
    ("text", "known"),
    [
        pytest.param("flags\t\t: fpu avx512_vnni\nflags\t: fpu\n", True, id="x86"),
        pytest.param("flags\t\t: fpu avx2 avx512_vnni2\n", False, id="x86-without"),
        pytest.param("Features\t: fp asimd asimddp\n", True, id="arm"),
        pytest.param("Features\t: fp asimd\n", False, id="arm-without"),
        pytest.param("processor\t: 0\n", None, id="not-told"),
    ],
)
def test_the_instructions_for_8_bit_products_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, known: bool | None
) -> None:
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    assert machine.multiplies_bytes() is None
    (tmp_path / "cpuinfo").write_text(text)
    assert machine.multiplies_bytes() is known


def test_the_commit_is_that_of_the_checkout(tmp_path: Path) -> None:
    assert machine.git_commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "one"], check=True)
    commit = machine.git_commit(tmp_path)
    assert commit is not None and len(commit) == 40
