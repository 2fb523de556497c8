"""The docs against the repository: tables, links, and forbidden text."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from bench import tables
from clinreadnet.cli import app

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


COMMANDS = list(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme_or_its_docs(command: str) -> None:
    assert any(f"clinreadnet {command}" in page.read_text() for page in PAGES)


def test_the_site_has_a_page_for_each_public_module_and_relative_links() -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: make docs")
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    repository = "https://github.com/clinreadnet/clinreadnet/blob/main"
    for source, link, expected in (
        ("README.md", "docs/runtime.md#speed", "runtime.md#speed"),
        ("README.md", "docs/images/score.png", "images/score.png"),
        ("README.md", "CONTRIBUTING.md", f"{repository}/CONTRIBUTING.md"),
        ("docs/export.md", "ahead-of-time.md", "ahead-of-time.md"),
        ("docs/export.md", "../README.md", "index.md"),
        ("docs/model.md", "../clinreadnet/weights/small.md", "model-card.md"),
        ("docs/runtime.md", "../examples/README.md", f"{repository}/examples/README.md"),
        ("docs/runtime.md", "https://example.org/a.md", "https://example.org/a.md"),
    ):
        assert hooks.relink(f"[a]({link})", source) == f"[a]({expected})"
    named = {"clinreadnet"}
    for page in (*PAGES, *sorted((ROOT / "examples").glob("*.py"))):
        named |= set(
            re.findall(r"^from (clinreadnet[\w.]*) import", page.read_text(), re.MULTILINE)
        )
    assert named <= {*hooks.PUBLIC}
    for name in hooks.PUBLIC:
        assert importlib.util.find_spec(name) is not None


def commands(page: Path) -> list[str]:
    """Return the `clinreadnet` commands of a page's code, each on one line."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^(?:\$ | {4})(.*\bclinreadnet .*)$", text, re.MULTILINE)
    lines += [code for code in re.findall(r"`([^`\n]*\bclinreadnet [^`\n]*)`", text)]
    return [line[line.index("clinreadnet ") :].split("#")[0].split(" > ")[0] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_options_in_the_docs_exist(page: Path) -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]
    unknown = []
    for line in commands(page):
        name, *words = line.split()[1:]
        if not re.fullmatch(r"[a-z-]+", name) or name.startswith("-"):
            continue
        options = {o for p in known[name].params for o in (*p.opts, *p.secondary_opts)}
        unknown += [
            f"{line}: {word}"
            for word in words
            if word.startswith("--") and word.rstrip(";,") not in {*options, "--help"}
        ]
    assert unknown == []


OF_OTHER_PROGRAMS = {
    *("--minutes", "--quick", "--commit", "--wheels", "--again", "--rounds"),  # of bench
    "--thorough",
    *("--clock-control", "--network", "--build-arg"),  # ncu, docker
    "--backend-config",  # tritonserver
    "--compiler",  # kernels/cpu/recipe.py
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_options_in_text_and_tables_exist(page: Path) -> None:
    known = get_command(app).commands.values()  # type: ignore[attr-defined]
    options = {o for c in known for p in c.params for o in (*p.opts, *p.secondary_opts)}
    named = set(re.findall(r"`(--[a-z][\w-]*)", page.read_text()))
    assert named <= options | OF_OTHER_PROGRAMS


FILES = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
FOLDERS = {parent.as_posix() for file in FILES for parent in Path(file).parents}


def is_in_the_repository(path: str) -> bool:
    """Return whether a path, or the end of one, is that of a file or a folder here."""
    path = re.sub(r"^clinreadnet/(kernels|export)\b", r"\1", path.split("::")[0].rstrip("/"))
    return path in FOLDERS or any(file == path or file.endswith(f"/{path}") for file in FILES)


@pytest.mark.skipif(not FILES, reason="not a git checkout")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_targets_and_names_in_the_docs_exist(page: Path) -> None:
    text = page.read_text()
    words = set(re.findall(r"`([^`\s]+)`", text))
    tops = "|".join(sorted(folder for folder in FOLDERS if re.fullmatch(r"\w+", folder)))
    paths = {w for w in words if re.fullmatch(rf"(({tops})/)?[\w./-]+\.py|({tops})/[\w./-]+", w)}
    assert [path for path in sorted(paths) if not is_in_the_repository(path)] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {w for line in re.findall(r"`make ([a-z -]+)", text) for w in line.split()} <= targets
    for name, path in re.findall(r"`(\w+)` (?:of|in) `([\w./-]+\.py)`", text):
        file = next(file for file in FILES if file.endswith(path))
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), f"{name} of {path}"
    for name in re.findall(r"`(clinreadnet(?:\.[a-z_]+)+\.[A-Z]\w+)`", text):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
