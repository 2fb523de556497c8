"""Seeded defects of the CPU engine: wrong copies of its sources and checkpoint fail to verify."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save
from support.native import built

from bench.records.defects import subset
from clinreadnet.runtime.backends.native import NativeBackend
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import CHECKPOINT_NAME, BatchRange, Parity
from clinreadnet.verify.compare import Evidence
from clinreadnet.verify.graph import judge_runs

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler"
)
PROFILE = BatchRange(1, 2, 3)
Weights = dict[str, NDArray[Any]]

SOURCES = [
    ("no block has a region mask", "attention.h", "apart ? -1e30f : 0.f", "0.f", "fp32"),
    ("no block shifts its windows", "network.cpp", "b % 2 ? kWindow / 2 : 0", "0", "fp32"),
    (
        "the position biases are transposed",
        "network.cpp",
        "query / 8 - key / 8 + 7",
        "key / 8 - query / 8 + 7",
        "fp32",
    ),
    (
        "the highest octave is left out",
        "attention.h",
        "e * (g1 + e * (g2 + e * e * g4))",
        "e * (g1 + e * g2)",
        "fp32",
    ),
    ("Sobel reads zeros outside the image", "stem.h", "to[-1] = to[0];", "to[-1] = 0;", "fp32"),
    ("GELU is the one for 8 bits", "block.h", "gelu<!Bytes>(v)", "gelu<false>(v)", "fp32"),
    ("LayerNorm's epsilon is 1e-3", "ops.h", "kEps = 1e-5f", "kEps = 1e-3f", "fp32"),
    ("grades are 0.19 apart", "network.cpp", "one[g] * (g * .2)", "one[g] * (g * .19)", "fp32"),
    (
        "slices of a batch share a score",
        "engine.cpp",
        "run(*work, hu + at * pixels, m, score + at,",
        "run(*work, hu + at * pixels, m, score,",
        "fp32",
    ),
    (
        "the scales of weights are doubled",
        "network.cpp",
        "scale[i] = most / levels;",
        "scale[i] = 2 * most / levels;",
        "int8",
    ),
    (
        "a token's least value is dropped",
        "gemm.h",
        "least[r] = least_here +",
        "least[r] = 0 * least_here +",
        "int8",
    ),
]


def _silent_head(weights: Weights) -> None:
    c = weights["stages.1.1.attention.projection.weight"].shape[0]
    weights["stages.1.1.attention.projection.weight"][:, : c // 4] = 0


def _other_epoch(weights: Weights) -> None:
    layer = weights["stages.2.1.mlp.0.weight"]
    noise = np.random.default_rng(0).normal(0, float(layer.std()), layer.shape)
    layer += (0.05 * noise).astype(layer.dtype)


def _doubled(weights: Weights) -> None:
    weights["stages.2.1.mlp.2.weight"] *= 2


def _no_bias(weights: Weights) -> None:
    weights["stages.1.1.attention.qkv.bias"][:] = 0


def _novelty_from_zero(weights: Weights) -> None:
    weights["novelty.mean"][:] = 0


@pytest.fixture(scope="module")
def checkpoint(tiny_bundle: Path) -> bytes:
    return (tiny_bundle / CHECKPOINT_NAME).read_bytes()


@pytest.fixture(scope="module")
def evidence(tiny_bundle: Path) -> Evidence:
    manifest = load_manifest(tiny_bundle)
    golden = read_golden(tiny_bundle, manifest.golden)
    return subset(golden, np.flatnonzero(np.isin(golden["kind"], ("saturated", "blocks"))))


def judged(library: Path, checkpoint: bytes, precision: str, evidence: Evidence) -> Parity:
    backend = NativeBackend(checkpoint, precision=precision, library=library)
    parity, _ = judge_runs(backend.run, precision, PROFILE, PROFILE, evidence)
    backend.close()
    return parity


def test_the_right_engine_passes(checkpoint: bytes, evidence: Evidence) -> None:
    for precision in ("fp32", "int8"):
        parity = judged(built(), checkpoint, precision, evidence)
        assert parity.status == "passed", parity.reason


@pytest.mark.sample(every=12)
@pytest.mark.parametrize("what, file, old, new, precision", SOURCES, ids=[s[0] for s in SOURCES])
def test_a_wrong_engine_fails(
    checkpoint: bytes,
    evidence: Evidence,
    what: str,
    file: str,
    old: str,
    new: str,
    precision: str,
) -> None:
    wrong = built(
        options=["-O1"], only=[], wide=False, edits={file: lambda text: text.replace(old, new)}
    )
    parity = judged(wrong, checkpoint, precision, evidence)
    assert parity.status == "failed", what


@pytest.mark.parametrize(
    "change", [_silent_head, _other_epoch, _doubled, _no_bias, _novelty_from_zero]
)
def test_a_wrong_checkpoint_fails(
    checkpoint: bytes, evidence: Evidence, tmp_path: Path, change: Callable[[Weights], None]
) -> None:
    path = tmp_path / "right.safetensors"
    path.write_bytes(checkpoint)
    with safe_open(path, framework="np") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata()
    change(weights)
    parity = judged(built(), save(weights, metadata), "fp32", evidence)
    assert parity.status == "failed"
