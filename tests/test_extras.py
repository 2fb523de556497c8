"""The extras in pyproject.toml agree with the code, its messages and the docs."""

import re
import tomllib
from pathlib import Path

import pytest

from clinreadnet.backends import BACKENDS
from clinreadnet.cli.command import EXTRAS, OPTIONAL
from clinreadnet.runtime.doctor import DISTRIBUTIONS, ENGINE, Feature, features

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = PROJECT["optional-dependencies"]
IN_BRACKETS = re.compile(r"(?:clinreadnet|\.)\[([a-z,-]+)\]")
FEATURES = features(dict.fromkeys((*DISTRIBUTIONS, ENGINE)), has_gpu=True)


def brought_by(*extras: str) -> set[str]:
    """Return the distributions that extras install, with those of extras that they name."""
    names: set[str] = set()
    for requirement in (line for extra in extras for line in DECLARED[extra]):
        if group := IN_BRACKETS.match(requirement):
            names |= brought_by(*group[1].split(","))
        else:
            names.add(re.split(r"[^\w-]", requirement)[0])
    return names


def test_every_extra_that_is_named_exists() -> None:
    named = {row.extra for row in BACKENDS.values() if row.extra}
    named.update(extra for group in EXTRAS.values() for extra in group)
    texts = [feature.command for feature in FEATURES]
    folders = ("bench", "clinreadnet", "deploy", "docs", "examples", "export", "kernels", ".github")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    files += [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile"]
    texts += [
        path.read_text()
        for path in files
        if path.suffix in {".py", ".md", ".yml", ""} and path.is_file()
    ]
    for text in texts:
        for group in IN_BRACKETS.findall(text):
            named.update(group.split(","))
    assert {"cpu", "docs", "export", "tensorrt-rtx"} <= named <= set(DECLARED)


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_what_doctor_tells_to_install_brings_what_is_missing(feature: Feature) -> None:
    if not (group := IN_BRACKETS.search(feature.command)):
        assert "pip install" in feature.command  # of packages by their names
        return
    brought = brought_by(*group[1].split(","))
    for need in feature.missing:
        assert any(brought & set(DISTRIBUTIONS[name]) for name in need.split(" or ")), need


def test_a_smaller_extra_brings_its_module() -> None:
    assert all(module in brought_by(*extras) for module, extras in OPTIONAL.items())
