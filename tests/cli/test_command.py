"""Errors name parameters in the library and options on the command line."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import typer
from support.dicom_files import noise
from typer.main import get_command
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.cli.command import Command, spell
from clinreadnet.errors import InputError, PartialResult

ROOT = Path(__file__).parents[2]
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("command", "message", "spelled"),
    [
        ("train", "batch_size=8: only 4 slices", "--batch-size 8: only 4 slices"),
        ("export", "targets=sm90: unknown", "--target sm90: unknown"),
        ("export", "workspace_mib=0: give 1 MiB", "--workspace 0: give 1 MiB"),
        ("export", "x: exists; give force=True, or", "x: exists; give --force, or"),
        ("export", "give engines=False", "give --no-engines"),
        ("verify", "give it as `checkpoint`, or", "give it as --checkpoint, or"),
        ("check-graph", "give the file as `graphs`", "give the file as GRAPHS"),
        ("score-archive", "address=ray://h:1: none", "--address ray://h:1: none"),
        ("score", "batch_size=8 and `hu`", "batch_size=8 and `hu`"),
        ("score", "run/csv=1/a.dcm: damaged", "run/csv=1/a.dcm: damaged"),
        ("score", "run `clinreadnet export --out plot`", "run `clinreadnet export --out plot`"),
    ],
)
def test_parameters_become_options(command: str, message: str, spelled: str) -> None:
    assert spell(message, COMMANDS[command].params) == spelled


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["train", "--data", "a", "b", "--out", "run"], "--data"),
        (["simulate", "--out", "x", "--anatomy", "a", "b", "c"], "--anatomy"),
    ],
    ids=["train", "simulate"],
)
def test_an_option_with_several_values_is_to_be_repeated(arguments: list[str], flag: str) -> None:
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, InputError)
    assert str(error).endswith(
        f"{flag} takes a single value; for several, repeat it: {flag} a {flag} b"
    )


@pytest.mark.parametrize(
    ("words", "option", "needed"),
    [
        ("simulate --out x --count 1 --any-part", "--any-part", "--anatomy"),
        ("simulate --out x --count 1 --dicom --variants 2", "--variants", "--anatomy"),
        ("score a.dcm --map-resolution slice", "--map-resolution", "--map"),
        (
            "listen --spool x --send-to h:1:A --map-resolution slice",
            "--map-resolution",
            "--map",
        ),
        ("verify x --checkpoint a", "--checkpoint", "--data"),
    ],
    ids=["part", "variants", "score", "listen", "verify"],
)
def test_an_option_without_effect_is_refused(
    words: str, option: str, needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(app, words.split()).exception
    assert isinstance(error, InputError) and str(error) == f"{option} needs {needed}"


@pytest.mark.parametrize("option", ["--engine-precision fp16", "--strip-weights", "--target sm89"])
def test_an_option_of_engines_is_refused_without_engines(option: str) -> None:
    error = CliRunner().invoke(app, f"export --out x/y --no-engines {option}".split()).exception
    assert isinstance(error, InputError)
    assert str(error) == f"{option.split()[0]} and --no-engines exclude each other"


def test_a_default_that_is_given_is_not_refused() -> None:
    error = CliRunner().invoke(app, ["score", "a.dcm", "--map-resolution", "patch"]).exception
    assert isinstance(error, InputError) and "a.dcm: no such file" in str(error)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("agree --labels a --scores b --html -", "--html"),
        ("calibrate --data a --out -", "--out"),
        ("check-kernels a --rows -", "--rows"),
        ("fit-site-map --labels a --scores b --out -", "--out"),
        ("score a.dcm --csv -", "--csv"),
        ("score-archive a --out -", "--out"),
        ("tune --out -", "--out"),
        ("tune --rows -", "--rows"),
    ],
    ids=["agree", "calibrate", "check-kernels", "fit", "score", "archive", "tune", "rows"],
)
def test_a_file_and_json_on_standard_output_are_refused(
    words: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(app, [*words.split(), "--json"]).exception
    assert isinstance(error, InputError), error
    assert str(error) == f"{option} and --json both write to standard output; give one of them"


def test_an_extra_argument_is_named() -> None:
    result = CliRunner().invoke(app, ["train", "--data", "a", "--out", "run", "more"])
    assert result.exit_code == 2 and "unexpected extra argument(s) (more)" in result.output


def test_an_error_keeps_its_type_and_attributes() -> None:
    other = typer.Typer()

    @other.command(cls=Command)
    def run(batch_size: Annotated[int, typer.Option()] = 1) -> None:
        raise PartialResult("batch_size=1: failed", scores=None, done=[2], failed=[0])

    error = CliRunner().invoke(other, []).exception
    assert isinstance(error, PartialResult)
    assert (str(error), error.done) == ("--batch-size 1: failed", [2])


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        (["train", "--data", "d", "--out", "o"], "torch", "train"),
        (["evaluate", "--data", "d"], "torch", "train"),
        (["export", "--out", "o"], "torch", "export"),
        (["check-graph"], "onnx", "export"),
        (["tune"], "triton", "export,kernels"),
    ],
    ids=["train", "evaluate", "export", "check-graph", "tune"],
)
def test_a_missing_package_names_the_commands_own_extra(
    tmp_path: Path, command: list[str], module: str, extra: str
) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv = {['clinreadnet', *command]}; "
        "from clinreadnet.cli import main; main()"
    )
    python = [sys.executable, "-c", code]
    done = subprocess.run(python, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"clinreadnet: {command[0]} needs {module}, which is not installed; run "
        f'`pip install "clinreadnet[{extra}]"`\n'
    )


def raised_texts(path: Path) -> Iterator[str]:
    """Yield the string constants of raise statements, without commands in backticks."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Raise):
            continue
        formatted = [inner for inner in ast.walk(node) if isinstance(inner, ast.JoinedStr)]
        parts = [part for text in formatted for part in text.values]
        for text in formatted:
            constants = (getattr(part, "value", "") for part in text.values)
            yield "".join(value if isinstance(value, str) else "{}" for value in constants)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Constant) and inner not in parts:
                yield str(inner.value)


def test_no_error_of_the_library_spells_an_option() -> None:
    modules = [
        path
        for folder in ("clinreadnet", "kernels", "export")
        for path in (ROOT / folder).rglob("*.py")
        if "cli" not in path.parts
    ]
    assert len(modules) > 100
    spelled = [
        f"{path.relative_to(ROOT)}: {text}"
        for path in modules
        for text in raised_texts(path)
        if re.search(r"--[a-z]", re.sub(r"`[^`]* [^`]*`", "", text))
    ]
    assert spelled == []


@pytest.mark.parametrize(
    "command", ["export --out o", "export-kernels --out o --format ptx --target sm90"]
)
def test_a_folder_that_exists_is_refused_before_pytorch_is_imported(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    Path("o").mkdir()
    error = CliRunner().invoke(app, command.split()).exception
    assert isinstance(error, InputError)
    assert str(error) == "o: already exists; give --force, or name another"


@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize(
    ("command", "name", "suffix"),
    [
        ("score a.npy --csv", "a.json", ".csv"),
        ("score a.npy --html", "a.pdf", ".html or .htm"),
        ("score a.npy --pdf", "page.txt", ".pdf"),
        ("score-archive a.npy --out", "a.csv", ".parquet"),
        ("agree --labels l.csv --scores s.csv --html", "page", ".html or .htm"),
        ("fit-site-map --labels l.csv --scores s.csv --out", "map.toml", ".json"),
        ("calibrate --data slices --out", "own.pt", ".safetensors"),
    ],
    ids=lambda value: value.split()[0] if " " in value else None,
)
def test_an_output_has_the_suffix_of_its_format(
    command: str,
    name: str,
    suffix: str,
    exists: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", noise())
    if exists:
        Path(name).write_text("old")
    error = CliRunner().invoke(app, [*command.split(), name]).exception
    assert isinstance(error, InputError)
    assert str(error) == f"{name}: give a name that ends in {suffix}"
    assert not exists or Path(name).read_text() == "old"
