"""The examples in the help of every command run as printed, on small data."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.dicom_files import noise, write_series
from support.kernel_folder import write_kernels
from support.labelled_folder import make_labelled_folder
from support.metaimage_files import write_mha
from support.score_files import row, write_csv, write_parquet
from support.site_readers import WEIGHTS, site, write_grades, write_map
from support.tiny_bundle import write_bundle
from typer.main import get_command
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.data.tif import write_tif
from clinreadnet.runtime.backends.flavours import FlavourMissing
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.runtime.bundle.sign import sign_bundle

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


def examples(command: str) -> list[str]:
    return re.findall(r"^- `(.+)`$", inspect.cleandoc(COMMANDS[command].help), re.MULTILINE)


EXAMPLES = [(command, example) for command in COMMANDS for example in examples(command)]

# Arguments that make an example small; the last value of an option counts.
SMALLER = {
    "check-graph": ["--preset", "tiny"],
    "export": ["--preset", "tiny"],
    "simulate": ["--count", "1", "--jobs", "1"],
    "train": ["--preset", "tiny", "--crop", "256", "--epochs", "1", "--batch-size", "4"],
}

# What an example calls, where the call itself is too much for this test, and why. The example is
# parsed and runs up to the call, whose arguments must fit the function.
STUBBED = {
    "ablate": ("clinreadnet.training.ablate.ablate", "eighteen trainings"),
    "export --checkpoint run/model.safetensors": (
        "clinreadnet.export.bundle.export_bundle",
        "building engines takes long; the fixture tiny_bundle runs it",
    ),
    "export --flavour tensorrt": ("clinreadnet.export.bundle.export_bundle", "needs a GPU"),
    "export --precision int8": (
        "clinreadnet.export.bundle.export_bundle",
        "quantisation takes long; tests/export/onnx/test_quantization.py runs it",
    ),
    "listen": ("clinreadnet.node.node.Node", "it runs until it is ended; test_listen.py runs it"),
    "score-archive": (
        "clinreadnet.scoring.archive.score_archive",
        "starting Ray takes long; tests/scoring/test_archive.py runs it",
    ),
    "simulate --anatomy": (
        "clinreadnet.simulator.simulate.simulate_folder",
        "simulating takes long; tests/simulator/test_simulate.py degrades slices",
    ),
    "simulate --breadth": (
        "clinreadnet.simulator.simulate.simulate_folder",
        "simulating takes long; tests/simulator/test_breadth.py runs it",
    ),
    "train --recipe": (
        "clinreadnet.training.run.train_recipe",
        "the recipe takes hours; tests/training/test_recipe.py runs one",
    ),
    "train --limit-time": (
        "clinreadnet.training.run.train",
        "training takes long; the first example trains",
    ),
    "train --resume": (
        "clinreadnet.training.run.train",
        "training takes long; tests/training/test_trainer.py resumes a run",
    ),
    "train torchrun": (
        "clinreadnet.training.run.train",
        "training takes long; tests/training/test_trainer.py starts two processes",
    ),
    "check-kernels --gpu": ("clinreadnet.export.check_kernels.check_folder", "needs a GPU"),
    "tune": ("clinreadnet.tuning.tune.tune", "needs a GPU"),
    "check-graph --checkpoint": (
        "clinreadnet.export.engines.check.check_graphs",
        "exporting takes long; the first example exports",
    ),
    "verify --data": (
        "clinreadnet.verify.run.verify_folder",
        "tests/verify/test_verify.py runs it",
    ),
    "verify --record": (
        "clinreadnet.verify.run.verify_golden",
        "tests/verify/test_record.py runs it",
    ),
}


class Reached(Exception):
    """Raised by a stub that was called with valid arguments."""


def stub_of(command: str, example: str) -> str | None:
    for words, (function, _) in STUBBED.items():
        name, _, options = words.partition(" ")
        if name == command and options in example:
            return function
    return None


@pytest.fixture
def workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, few_golden: None
) -> Path:
    """Return the current folder. The shipped checkpoint is replaced by a tiny network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLINREADNET_BUNDLE", raising=False)
    for module in (
        "clinreadnet.model.checkpoint",
        "clinreadnet.export.bundle",
        "clinreadnet.export.plugins.plan",
        "clinreadnet.evaluation.intervals",
        "clinreadnet.evaluation.labels",
        "clinreadnet.evaluation.order",
    ):
        monkeypatch.setattr(import_module(module), "pretrained_path", lambda *_: tiny_checkpoint)
    return tmp_path


def make_run(path: Path, checkpoint: Path) -> None:
    path.mkdir()
    shutil.copy(checkpoint, path / "model.safetensors")


def make_degraded(path: Path) -> None:
    """Write an LDCTIQA folder with the record that `simulate --anatomy` writes."""
    make_labelled_folder(path, anatomies=1)
    simulation = json.loads((path / "simulation.json").read_text())
    for k, record in enumerate(simulation["images"].values()):
        record |= {"noise_level": k, "views": 720, "quality": 4.0 - k, "slice": "IM0001.dcm"}
    (path / "simulation.json").write_text(json.dumps(simulation))


def make_keys(path: Path) -> None:
    private = path.parent / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    if path != private:
        subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", path], check=True)


def make_spool(path: Path) -> None:
    from clinreadnet.node.spool import Spool

    Spool(path, most_bytes=1, most_objects=1).close()


MAKERS: dict[str, Callable[[Path], object]] = {
    "bundle": write_bundle,
    "kernels": write_kernels,
    "series": lambda path: write_series(path, 3),
    "routine-dose-series": lambda path: write_series(path, 1, PixelSpacing=[0.7, 0.7]),
    "slices": lambda path: make_labelled_folder(path, anatomies=2),
    "LDCTIQAG2023_test": lambda path: make_labelled_folder(path, anatomies=1),
    "LDCTIQAG2023_train": make_labelled_folder,
    "archive": lambda path: write_series(path, 1),
    "degraded": make_degraded,
    "ecqm.toml": lambda path: path.write_text(
        "[default]\ncategory = 'Abdomen'\nmost_noise_hu = 20\nmost_ssde_mgy = 20\n"
    ),
    "figures.csv": lambda path: write_csv(path, [row(noise_hu=12.0, ssde_mgy=9.0)]),
    "limits.toml": lambda path: path.write_text("[default]\nmost_noise_hu = 1e6\n"),
    "output": Path.mkdir,
    "key.pem": make_keys,
    "vendor.pub.pem": make_keys,
    "0000.tif": lambda path: write_tif(path, noise()),
    "0001.tif": lambda path: write_tif(path, noise(1)),
    "scores.csv": lambda path: write_csv(path, [row()]),
    "scores.parquet": lambda path: write_parquet(path, [row()]),
    "site-map.json": write_map,
    "site.csv": lambda path: write_grades(path, site()[0]),
    "spool": make_spool,
    "stack.mha": lambda path: write_mha(path, np.stack([noise(), noise(1)])),
}


def prepare(command: str, example: str, workspace: Path, request: pytest.FixtureRequest) -> None:
    """Make the files that an example reads."""
    words = [word.split("/")[0] for word in shlex.split(example)]
    outputs = {words[i + 1] for i, word in enumerate(words) if word in ("--out", "-out", "--csv")}
    for word in dict.fromkeys(words[2:]):
        if word in MAKERS and word not in outputs:
            MAKERS[word](workspace / word)
    if command == "verify":
        shutil.rmtree(workspace / "bundle")
        shutil.copytree(request.getfixturevalue("tiny_bundle"), workspace / "bundle")
    if "run" in words and "run" not in outputs:
        make_run(workspace / "run", request.getfixturevalue("tiny_checkpoint"))
    if "site.csv" in words:  # its slices have scores
        target = workspace / words[words.index("--scores") + 1]
        if target.suffix == ".csv":
            write_csv(target, site()[1])
        else:
            write_parquet(target, site()[1], weights=WEIGHTS)
    needs_bundle = command in ("export-triton-server", "listen", "score", "score-archive")
    if needs_bundle and "bundle" not in words:
        write_bundle(workspace / "bundle")
    if "--site-map" in words:
        weights = load_manifest(workspace / "bundle").model.weights_sha256
        write_map(workspace / "site-map.json", weights_sha256=weights)
    if "--trusted-key" in words:
        sign_bundle(workspace / "bundle", workspace / "key.pem")
    if "--force" in words:
        (workspace / words[words.index("--out") + 1]).mkdir(exist_ok=True)


def no_tensorrt(flavour: str) -> None:
    """Export only graphs, as without TensorRT: building engines takes long."""
    raise FlavourMissing(f"{flavour} is not installed")


def run(arguments: list[str], stub: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if stub is not None:
        module, _, name = stub.rpartition(".")
        real = getattr(import_module(module), name)

        def reached(*args: Any, **kwargs: Any) -> None:
            inspect.signature(real).bind(*args, **kwargs)
            raise Reached

        monkeypatch.setattr(import_module(module), name, reached)
    result = CliRunner().invoke(app, arguments)
    if stub is not None:
        assert isinstance(result.exception, Reached), f"{result.output} {result.exception!r}"
    else:
        assert result.exit_code == 0, f"{result.output} {result.exception!r}"


@pytest.mark.parametrize(("command", "example"), EXAMPLES, ids=[e for _, e in EXAMPLES])
def test_examples_run(
    command: str,
    example: str,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if shutil.which("openssl") is None and ("openssl" in example or "key" in example):
        pytest.skip("openssl is not installed")
    stub = stub_of(command, example)
    prepare(command, example, workspace, request)
    words = shlex.split(example)
    if words[0] == "openssl":
        subprocess.run(words, check=True)
        return
    if words[0] == "torchrun":
        words = words[words.index("clinreadnet") :]
    assert words[:2] == ["clinreadnet", command]
    arguments = [command, *words[2:], *([] if stub else SMALLER.get(command, []))]
    if command in ("check-graph", "export") and stub is None:
        request.getfixturevalue("quick")
    if command == "export" and stub is None:
        monkeypatch.setattr("clinreadnet.export.request.load_flavour", no_tensorrt)
    if command == "export-kernels":
        kernels = import_module("clinreadnet.export.kernels")
        stem = kernels.sources("small")[:1]
        monkeypatch.setattr(kernels, "sources", lambda preset: stem)
    run(arguments, stub, monkeypatch)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_and_a_group(command: str) -> None:
    assert any(line.startswith(f"clinreadnet {command}") for line in examples(command))
    assert COMMANDS[command].rich_help_panel in ("Deploy", "Score", "Measure", "Train")


def test_the_help_is_grouped_by_user() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    groups = re.findall(r"─ (\w+) ─", shown)
    assert groups == ["Options", "Deploy", "Score", "Measure", "Train"]
    for command in COMMANDS:
        assert f" {command} " in shown
