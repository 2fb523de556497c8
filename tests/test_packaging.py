"""The folder mapping, the wheel's contents, and imports that run one way."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.whole import WHOLE

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "clinreadnet": "clinreadnet",
    "kernels": "clinreadnet.kernels",
    "export": "clinreadnet.export",
}


def modules() -> dict[str, Path]:
    paths = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            paths[".".join([package, *parts]).removesuffix(".__init__")] = path
    return paths


def imported_by(path: Path) -> set[str]:
    """Return every module that a file imports, without type-checking blocks."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def offenders(package: str, forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{module} imports {name}"
        for module, path in modules().items()
        if module == package or module.startswith(package + ".")
        for name in imported_by(path)
        if any(name == f or name.startswith(f + ".") for f in forbidden)
    ]


def test_kernels_import_nothing_above_them() -> None:
    above = [
        f"{module} imports {name}"
        for module, path in modules().items()
        if module.startswith("clinreadnet.kernels")
        for name in imported_by(path)
        if name.startswith("clinreadnet") and not name.startswith("clinreadnet.kernels")
    ]
    assert above == []


def test_runtime_imports_no_torch_and_nothing_above_it() -> None:
    forbidden = (
        "torch",
        "triton",
        "clinreadnet.export",
        "clinreadnet.kernels",
        "clinreadnet.model.network",
        "clinreadnet.training.trainer",
        "clinreadnet.model.checkpoint",
    )
    assert offenders("clinreadnet.runtime", forbidden) == []


@pytest.mark.parametrize("module", ["model", "attention", "soqn", "loss", "train", "weights"])
def test_the_network_does_not_import_export(module: str) -> None:
    assert offenders(f"clinreadnet.{module}", ("clinreadnet.export", "clinreadnet.runtime")) == []


@pytest.mark.parametrize("folder", ["kernels", "export"])
def test_unmapped_import_is_refused(folder: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert f"import clinreadnet.{folder} instead" in result.stderr


def test_importing_the_package_pulls_in_no_torch() -> None:
    code = "import sys, clinreadnet; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_wheel_holds_every_module_and_data_file(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy: building in place leaves a build folder behind
    for folder in FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    compiler = next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    environment = dict(os.environ)
    if compiler is not None and os.name == "posix":  # what it compiles is not run
        quick = tmp_path / "quick"
        compiles, makes = f'{compiler} "$@" -O0', 'while [ "$1" != -o ]; do shift; done; : > "$2"'
        quick.write_text(f"#!/bin/sh\n{compiles if WHOLE else makes}\n")
        quick.chmod(0o755)
        environment["CXX"] = str(quick)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        + ["--wheel-dir", str(tmp_path), str(source)],
        check=True,
        env=environment,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    # One wheel for all Pythons of a platform, with the CPU engine where a compiler is.
    assert "-py3-none-" in wheel.name and not wheel.name.endswith("-any.whl")
    assert any("/libclinreadnet." in name for name in names) == (compiler is not None)
    assert "clinreadnet/kernels/cpu/include/clinreadnet.h" in names
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".safetensors", ".md", ".json", ".html"}:
                relative = path.relative_to(ROOT / folder).as_posix()
                assert f"{package.replace('.', '/')}/{relative}" in names
    assert not any(name.split("/")[0] in {"kernels", "export", "tests"} for name in names)
