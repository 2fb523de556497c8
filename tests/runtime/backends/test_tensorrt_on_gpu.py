"""The TensorRT backends on a real GPU, alone and beside torch in one process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import make_graph, reference, write_bundle

from clinreadnet.runtime import Session
from clinreadnet.runtime.backends.flavours import FlavourMissing, load_flavour
from clinreadnet.runtime.bundle.files import digest, load_manifest, write_manifest
from clinreadnet.runtime.bundle.manifest import NOT_RUN, Artifact, BatchRange, BuiltOn, Parity
from clinreadnet.runtime.gpu import find_gpus
from clinreadnet.runtime.verdict import current_platform

pytestmark = pytest.mark.gpu

PROFILE = BatchRange(1, 4, 8)


def build(trt: Any, target: str | None) -> bytes:
    """Build an engine of the tiny graph, for ``target`` or for this machine's GPU."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(make_graph())
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if target is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), 0)
    profile = builder.create_optimization_profile()
    sizes = (PROFILE.min, PROFILE.opt, PROFILE.max)
    profile.set_shape("hu", *((n, 1, 512, 512) for n in sizes))
    config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    try:
        flavour, trt = load_flavour(request.param)
    except FlavourMissing as missing:
        pytest.skip(str(missing))
    target = find_gpus()[0].target
    if flavour.targets and target not in flavour.targets:
        pytest.skip(f"{flavour.name} knows no {target}")
    content = build(trt, target if flavour.targets else None)
    path = write_bundle(tmp_path / "bundle")
    (path / "x.engine").write_bytes(content)
    entry = Artifact(
        file="x.engine",
        kind="tensorrt-engine",
        precision="fp32",
        sha256=digest(content),
        size=len(content),
        batch=PROFILE,
        toolchain={flavour.name: str(trt.__version__)},
        built_on=BuiltOn(current_platform()),
        flavour=flavour.name,
        target=target,
        parity=Parity(NOT_RUN),
    )
    manifest = load_manifest(path)
    write_manifest(dataclasses.replace(manifest, artifacts=(*manifest.artifacts, entry)), path)
    return path, flavour.name


def test_the_engine_scores_as_the_reference(bundle: tuple[Path, str]) -> None:
    hu = np.random.default_rng(1).normal(40, 300, (11, 512, 512)).astype(np.float32)
    with Session(*bundle, workers=2) as session:
        for n in (1, 4, 11, 3, 11):
            np.testing.assert_allclose(
                session.score(hu[:n]).score, reference(hu[:n])["score"], rtol=1e-5
            )


def test_torch_goes_on_in_the_same_process(bundle: tuple[Path, str]) -> None:
    import torch

    before = torch.arange(8, device="cuda").sum().item()
    with Session(*bundle) as session:
        hu = np.full((2, 512, 512), 40, np.int16)
        first = session.score(hu)
        assert torch.arange(8, device="cuda").sum().item() == before
        np.testing.assert_array_equal(session.score(hu).score, first.score)
    assert torch.arange(8, device="cuda").sum().item() == before
