"""The docs against the repository: tables, links, and what must not be in them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from clinreadnet.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("clinreadnet/weights/*.md")]


def test_tables_are_up_to_date() -> None:
    command = [sys.executable, "-m", "bench.tables", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_files_resolve(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


COMMANDS = list(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme_or_its_docs(command: str) -> None:
    assert any(f"clinreadnet {command}" in page.read_text() for page in PAGES)
