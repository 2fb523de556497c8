"""The files that describe the repository for GitHub and readers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from clinreadnet import __version__

ROOT = Path(__file__).parents[1]
CHECKER = shutil.which("check-jsonschema", path=Path(sys.executable).parent)
SCHEMAS = {
    ".github/dependabot.yml": "vendor.dependabot",
    ".github/workflows/ci.yml": "vendor.github-workflows",
    ".github/workflows/release.yml": "vendor.github-workflows",
    ".github/ISSUE_TEMPLATE/bug.yml": "vendor.github-issue-forms",
    ".github/ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
    "CITATION.cff": "vendor.citation-file-format",
}


def load(file: str) -> Any:
    return yaml.safe_load((ROOT / file).read_text())


@pytest.mark.skipif(CHECKER is None, reason="check-jsonschema is not installed")
@pytest.mark.parametrize("file", SCHEMAS)
def test_files_keep_their_schema(file: str) -> None:
    command = [str(CHECKER), "--builtin-schema", SCHEMAS[file], str(ROOT / file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_for_github_is_checked() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / ".github").rglob("*.yml")}
    assert files == {file for file in SCHEMAS if file.startswith(".github/")}


def test_the_workflow_covers_what_pyproject_promises() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    jobs = load(".github/workflows/ci.yml")["jobs"]
    versions = [c.split()[-1] for c in project["classifiers"] if "Python :: 3." in c]
    assert jobs["test"]["strategy"]["matrix"]["python"] == versions
    assert project["requires-python"] == f">={versions[0]}"
    assert "windows-latest" in jobs["runtime"]["strategy"]["matrix"]["os"]
    commands = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    targets = {word for line in commands for word in re.findall(r"make ([\w -]+)", line)}
    makefile = (ROOT / "Makefile").read_text()
    for target in " ".join(targets).split():
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    tested = {word for line in commands for word in line.split() if word.startswith("tests/")}
    assert tested and all((ROOT / path).exists() for path in tested)
    extras = {
        e for line in commands for names in re.findall(r"\[(.+?)\]", line) for e in names.split(",")
    }
    assert extras and extras <= set(project["optional-dependencies"])


def test_one_version() -> None:
    assert load("CITATION.cff")["version"] == __version__
    assert f"## [{__version__}] - " in (ROOT / "CHANGELOG.md").read_text()
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in document["project"]["dynamic"] and "version" not in document["project"]


def test_the_changelog_keeps_its_form() -> None:
    """Keep a Changelog 1.1.0: versions with dates, newest first, known kinds of change, links."""
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(
        re.fullmatch(r"\[\d+\.\d+\.\d+\] - (\d{4}-\d\d-\d\d|unreleased)", v) for v in versions[1:]
    )
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Known limits"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds
    for name in re.findall(r"^## \[(.*?)\]", text, re.MULTILINE):
        assert f"\n[{name}]: https://" in text


def test_a_release_publishes_only_what_a_tag_names() -> None:
    jobs = load(".github/workflows/release.yml")["jobs"]
    tagged = "startsWith(github.ref, 'refs/tags/')"
    for name, job in jobs.items():
        writes = {scope for scope, access in job["permissions"].items() if access == "write"}
        guarded = job.get("if") == tagged or all(
            step.get("if") == tagged
            for step in job["steps"]
            if "attest" in step.get("uses", "") or "push" in step.get("run", "")
        )
        assert not writes or guarded, name
        for step in job["steps"]:
            assert re.fullmatch(r".+@[0-9a-f]{40}", step.get("uses", "a@" + 40 * "0"))
    assert set(jobs["pypi"]["needs"]) == {"check", "wheels", "sdist", "image"}
    assert jobs["pypi"]["permissions"] == {"id-token": "write"}


def test_a_bug_report_asks_for_the_machine() -> None:
    required = [field for field in load(".github/ISSUE_TEMPLATE/bug.yml")["body"] if "id" in field]
    doctor = next(field for field in required if field["id"] == "doctor")
    assert "clinreadnet doctor --json" in doctor["attributes"]["label"]
    assert doctor["validations"]["required"]


def test_hooks_run_tools_of_the_environment() -> None:
    hooks = [h for repo in load(".pre-commit-config.yaml")["repos"] for h in repo["hooks"]]
    assert {hook["id"] for hook in hooks} >= {"ruff-check", "ruff-format", "typos", "large-files"}
    constraints = (ROOT / "constraints.txt").read_text().lower()
    packages = {"check-added-large-files": "pre_commit_hooks"}
    for hook in hooks:
        tool = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert f"\n{packages.get(tool, tool)}==" in constraints


def test_every_dependency_of_the_project_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["docs"], *extras["cpu"]]
    for extra in (
        "bench",
        "dicom",
        "export",
        "kernels",
        "plot",
        "quantize",
        "ray",
        "sign",
        "train",
    ):
        wanted += extras[extra]
    names = {re.split(r"[\[<>=]", line)[0].lower() for line in wanted} - {"clinreadnet"}
    assert {re.sub(r"[-_.]+", "-", name) for name in names} <= pinned
