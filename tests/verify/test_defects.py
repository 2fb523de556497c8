"""Seeded defects: each changes the graph, and verification names the wrong output.

`make defects` runs all of them on the shipped network in three precisions; here the tiny network of
the test bundle runs a sample of them on a few golden slices.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support.defects import DEFECTS, Defect, Network

from bench.records.defects import subset
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import BatchRange
from clinreadnet.runtime.scores import Outputs
from clinreadnet.verify.graph import verify_graph

FP32 = "clinreadnet.fp32.onnx"
SAMPLE = {
    "clip-at-1-2": "score is off",
    "sobel-sign": "novelty is off",
    "no-qkv": "quality_map is off",
    "no-shift": "quality_map is off",
    "bias-zero": "quality_map is off",
    "bias-transposed": "quality_map is off",
    "gelu-by-tanh": "novelty is off",
    "grade-step": "quality_map is off",
    "outputs-swapped": "score is off",
    "no-residual": "quality_map is off",
}
"""An output that must be named, by defect."""


@pytest.fixture(scope="module")
def golden(tiny_bundle: Path) -> Outputs:
    manifest = load_manifest(tiny_bundle)
    return read_golden(tiny_bundle, manifest.golden)


def named(name: str) -> Defect:
    return next(defect for defect in DEFECTS if defect.name == name)


def test_there_are_enough_and_their_names_differ() -> None:
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS) >= 20


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_each_changes_the_graph_and_leaves_one(
    tiny_bundle: Path, defect: Defect, precision: str
) -> None:
    content = (tiny_bundle / f"clinreadnet.{precision}.onnx").read_bytes()
    assert len(Network(content).attentions) == 5, "the tiny network has five blocks"
    wrong = defect.of(content)
    assert wrong != Network(content).content()
    onnx.checker.check_model(onnx.load_model_from_string(wrong))


@pytest.mark.parametrize("name", ["right", *SAMPLE])
def test_verification_names_the_output_that_is_off(
    tiny_bundle: Path, golden: Outputs, name: str
) -> None:
    content = (tiny_bundle / FP32).read_bytes()
    wrong = content if name == "right" else named(name).of(content)
    kept = np.flatnonzero(np.isin(golden["kind"], ("saturated", "blocks")))
    parity, _ = verify_graph(wrong, "fp32", BatchRange(1, 1, 1), subset(golden, kept))
    if name == "right":
        assert parity.status == "passed", parity.reason
        return
    assert parity.status == "failed"
    assert SAMPLE[name] in str(parity.reason)
    assert parity.details["slices_off"]


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("name", [defect.name for defect in DEFECTS if defect.batch])
def test_verification_notices_mistakes_of_batches(
    tiny_bundle: Path, golden: Outputs, name: str
) -> None:
    wrong = named(name).of((tiny_bundle / FP32).read_bytes())
    evidence = subset(golden, np.arange(2))
    alone, _ = verify_graph(wrong, "fp32", BatchRange(1, 1, 1), evidence)
    assert alone.status == "passed", "a single slice is right"
    parity, _ = verify_graph(wrong, "fp32", BatchRange(1, 1, 9), evidence)
    assert parity.status == "failed"
    assert "batch 9, position" in str(parity.reason)


def test_a_pixel_far_above_the_range_is_among_the_golden_slices(
    tiny_bundle: Path, golden: Outputs
) -> None:
    wrong = named("bright-pixel").of((tiny_bundle / FP32).read_bytes())
    kept = np.flatnonzero(golden["hu"].max(axis=(1, 2)) > 3000)
    assert len(kept) >= 3
    parity, _ = verify_graph(wrong, "fp32", BatchRange(1, 1, 1), subset(golden, kept))
    assert parity.status == "failed" and "score is off by" in str(parity.reason)
