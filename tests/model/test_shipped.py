"""The claims of the model card, on slices that were not used in training."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from support.novelty_oracle import Round, exact, to_bits
from support.novelty_oracle import novelty as oracle_novelty
from support.strange_slices import STRANGE, strange_slice
from support.whole import WHOLE

from clinreadnet.data.region import OUTSIDE, find_region
from clinreadnet.data.slices import find_slices
from clinreadnet.model.checkpoint import load_pretrained
from clinreadnet.model.network import ClinReadNet
from clinreadnet.model.predict import predict
from clinreadnet.model.soqn import encode
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.scores import SURE_OF_ABDOMEN
from clinreadnet.simulator.phantom.draw import draw_phantom
from clinreadnet.simulator.simulate import simulate_anatomy

SEED = 301
PHANTOMS = 60 if WHOLE else 6
ANATOMIES = 10 if WHOLE else 2


@cache
def shipped() -> ClinReadNet:
    return load_pretrained().eval()


@cache
def abdomen(anatomy: int) -> np.ndarray:
    """Return the best scan of a phantom, [512, 512] float32."""
    return simulate_anatomy(SEED, anatomy, 1).slices[0].hu


def novelty(hu: np.ndarray) -> float:
    model = shipped()
    with torch.inference_mode():
        image = encode(torch.from_numpy(np.asarray(hu, np.float32))[None, None])
        return float(model.novelty(model.statistics(model.stem(image))))


@cache
def strange(kind: str, anatomy: int) -> tuple[np.ndarray, float]:
    """Return a drawn slice that shows no abdominal CT, and its novelty."""
    hu = strange_slice(kind, anatomy, abdomen(anatomy))
    return hu, novelty(hu)


def test_abdominal_slices_are_in_domain() -> None:
    threshold = float(shipped().novelty.threshold)
    assert np.isfinite(threshold)
    marked = [n for n in range(ANATOMIES) if novelty(abdomen(n)) > threshold]
    assert marked == []


def test_what_is_no_abdominal_ct_is_marked_as_novel() -> None:
    threshold = float(shipped().novelty.threshold)
    missed = [
        f"{kind}, {seed}"
        for kind in STRANGE
        for seed in range(ANATOMIES)
        if not strange(kind, seed)[1] > threshold
    ]
    assert len(missed) < 0.05 * len(STRANGE) * ANATOMIES, missed


def test_both_gates_mark_every_drawn_foreign_slice_and_keep_the_phantoms() -> None:
    threshold = float(shipped().novelty.threshold)
    missed = [
        f"{kind}, {seed}"
        for kind in STRANGE
        for seed in range(ANATOMIES)
        if find_region(strange(kind, seed)[0]).answer != OUTSIDE
        and not strange(kind, seed)[1] > threshold
    ]
    assert missed == []
    phantoms = [draw_phantom(SEED, n) for n in range(PHANTOMS)]
    answers = [find_region(phantom.hu, phantom.pixel_mm).answer for phantom in phantoms]
    assert answers.count(OUTSIDE) <= 0.03 * len(answers)


def outside_versions(hu: np.ndarray, body: np.ndarray) -> dict[str, np.ndarray]:
    """Return the slice with other things outside its body, which keeps a rim of 12 pixels."""
    outside = ~ndi.binary_dilation(body, iterations=12)
    y, x = np.indices(hu.shape) - 255.5
    rows = np.flatnonzero(body.any(axis=1))
    table = outside & (np.abs(y + 255.5 - min(rows[-1] + 25, 500)) < 6)
    arms = outside & (np.hypot((np.abs(x) - 235) / 18, y / 40) < 1)
    rng = np.random.default_rng(1)
    return {
        "air": np.where(outside, -1000.0, hu),
        "table": np.where(table, 150.0, hu),
        "arms": np.where(arms, 50.0 + rng.normal(0, 20, hu.shape), hu),
        "padding": np.where(outside & (np.hypot(x, y) > 256), -2000.0, hu),
    }


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("anatomy", range(4))
def test_what_lies_outside_the_body_moves_no_score(anatomy: int) -> None:
    hu, body = abdomen(anatomy), draw_phantom(SEED, anatomy).body
    versions = outside_versions(hu, body)
    whole = np.rint(np.stack([hu, *versions.values()])).astype(np.int16)
    score, *others = predict(shipped(), whole)["score"]
    moved = {name: abs(other - score) for name, other in zip(versions, others, strict=True)}
    assert max(moved.values()) <= 0.1, moved


@pytest.mark.parametrize(
    ("precision", "weights", "tensors"),
    [
        ("fp32", exact, to_bits(24)),
        ("tf32", to_bits(11), to_bits(11)),
        ("fp16", to_bits(11), to_bits(11)),
        ("bf16", to_bits(8), to_bits(8)),
    ],
)
def test_novelty_budgets_follow_the_float64_oracle(
    precision: str, weights: Round, tensors: Round
) -> None:
    hu = np.stack([abdomen(n) for n in range(ANATOMIES)])
    model = load_pretrained().double().eval()
    reference = oracle_novelty(model, hu, exact, exact)
    rounded = oracle_novelty(model, hu, weights, tensors)
    if precision == "fp32":  # sums are rounded too
        rounded = np.stack([rounded, [novelty(image) for image in hu]])
    error = float(np.max(np.abs(rounded / reference - 1)))
    assert 2 * error <= PRECISIONS[precision].novelty_budget <= 20 * error


@pytest.mark.skipif(
    "CLINREADNET_REAL_DATA" not in os.environ,
    reason="CLINREADNET_REAL_DATA does not name a folder of real slices",
)
def test_patients_are_in_domain() -> None:
    refs = find_slices([Path(os.environ["CLINREADNET_REAL_DATA"]) / "tcga"])
    marked = [
        ref.name
        for ref in refs
        if find_region(hu := ref.load(), ref.loaded_mm).answer == OUTSIDE
        or novelty(hu) > SURE_OF_ABDOMEN * float(shipped().novelty.threshold)
    ]
    assert len(marked) <= 0.03 * len(refs), marked
