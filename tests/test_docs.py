"""The docs against the repository: tables, links, and what must not be in them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import tables

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("clinreadnet/weights/*.md")]


def test_tables_are_up_to_date() -> None:
    command = [sys.executable, "-m", "bench.tables", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_stale_table_is_found_and_written(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "export.md"
    for name in tables.PAGES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    page.write_text(page.read_text().replace("| builds without a GPU |", "| builds anything |"))
    assert tables.stale_pages(tmp_path, write=False) == ["docs/export.md"]
    assert tables.stale_pages(tmp_path, write=True) == ["docs/export.md"]
    assert page.read_text() == (ROOT / "docs" / "export.md").read_text()
    assert tables.stale_pages(tmp_path, write=False) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_table_of_a_page_is_made_by_the_pages_module(page: Path) -> None:
    marked = set(re.findall(r"<!-- table: ([\w-]+) -->", page.read_text()))
    assert marked == set(tables.PAGES.get(page.relative_to(ROOT).as_posix(), ()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_files_resolve(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


COMMANDS = "score export verify simulate train evaluate ablate doctor tune sign report".split()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme_or_its_docs(command: str) -> None:
    assert any(f"clinreadnet {command}" in page.read_text() for page in PAGES)
