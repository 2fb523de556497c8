"""One tiny checkpoint, its graphs and its bundle, made once for the whole session."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.export import bundle
from clinreadnet.export.onnx import export_onnx
from clinreadnet.export.tensorrt import FLAVOURS, FlavourMissing, load_flavour
from clinreadnet.model import ClinReadNet, ClinReadNetConfig
from clinreadnet.weights import load_checkpoint, save_checkpoint

RTX_MISSING: str | None = None
"""Why engines cannot be built here."""
try:
    load_flavour(FLAVOURS["tensorrt-rtx"])
except FlavourMissing as missing:
    RTX_MISSING = str(missing)


def disc(noise: float, seed: int = 0) -> NDArray[np.float32]:
    """A body of soft tissue in air with noise in HU: [512, 512]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-256:256, -256:256]
    hu = np.where(x**2 + y**2 < 200**2, 40.0, -1000.0) + rng.normal(0, noise, x.shape)
    return hu.astype(np.float32)


def scattered(preset: str, seed: int = 0) -> ClinReadNet:
    """A network of random weights whose score follows the noise, so that slices can be ranked."""
    torch.manual_seed(seed)
    model = ClinReadNet(ClinReadNetConfig.from_preset(preset)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias_table", "log_inv_temperature", "gate_logits")):
                parameter.normal_(0, 0.5)  # all zero otherwise: too easy
            elif parameter.ndim == 2:
                parameter.mul_(4)  # a fresh network scores every slice alike
        seen: list[torch.Tensor] = []
        hook = model.head.norm.register_forward_hook(lambda *args: seen.append(args[2]))
        model(torch.from_numpy(np.stack([disc(0), disc(20), disc(60)]))[:, None])
        hook.remove()
        features = seen[0].flatten(1, 2).mean(dim=1)  # [3, C]
        direction = features[0] - features[2]
        direction /= direction.norm() ** 2
        ramp = torch.linspace(-4, 4, 21)
        model.head.vote.weight.copy_(ramp[:, None] * direction)
        model.head.vote.bias.copy_(-ramp * (features[1] @ direction))
    return model


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_checkpoint(scattered("small"), path, dtype=torch.float16)
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(scattered("tiny"), path, dtype=torch.float16)
    return path


@pytest.fixture(scope="session", autouse=True)
def _simulate_once() -> Iterator[None]:
    """Simulating takes longer than a tiny network; the same slices serve every export."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "simulate_anatomy", functools.cache(bundle.simulate_anatomy))
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
