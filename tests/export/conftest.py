"""One tiny checkpoint, its graphs and its bundle, made once for the whole session."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from export_models import RTX_MISSING, scattered
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.export import golden
from clinreadnet.export.onnx import export_onnx
from clinreadnet.weights import load_checkpoint, pretrained_path, save_checkpoint


@pytest.fixture(scope="session")
def small_checkpoint() -> Path:
    """The shipped one: equal constants of a fresh network would merge and hide layers."""
    return pretrained_path()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(scattered("tiny"), path, dtype=torch.float16)
    return path


@pytest.fixture(scope="session", autouse=True)
def _simulate_once() -> Iterator[None]:
    """Simulating takes longer than a tiny network; the same slices serve every export."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden, "simulate_anatomy", functools.cache(golden.simulate_anatomy))
        yield


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_checkpoint: Path, _simulate_once: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Both graphs, and one engine where it can be built; made once, read only."""
    out = tmp_path_factory.mktemp("export") / "bundle"
    engines = ["--target", "sm89"] if RTX_MISSING is None else ["--no-engines"]
    arguments = ["--out", str(out), "--checkpoint", str(tiny_checkpoint), "--preset", "tiny"]
    result = CliRunner().invoke(app, ["export", *arguments, *engines])
    assert result.exit_code == 0, f"{result.output} {result.exception!r}"
    return out


@pytest.fixture
def own_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


Graph = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def graph(
    tiny_bundle: Path, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Graph:
    """Make the graph of a preset and precision; each is exported at most once."""
    folder = tmp_path_factory.mktemp("small")

    def make(preset: str, precision: str) -> Path:
        if preset == "tiny":
            return tiny_bundle / f"clinreadnet.{precision}.onnx"
        path = folder / f"clinreadnet.{precision}.onnx"
        if not path.exists():
            export_onnx(load_checkpoint(small_checkpoint), path, precision=precision)
        return path

    return make
