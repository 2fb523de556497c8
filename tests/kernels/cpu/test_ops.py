"""Every op of the CPU engine against its float64 reference, with every instruction set.

Outputs hold NaN before a call, and the engine fills its scratch memory with NaN.
"""

from __future__ import annotations

import platform
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.native import (
    CROSS_C,
    EMULATE,
    NO_ARM,
    SAMPLE,
    SANITIZER,
    SANITIZERS,
    Runner,
    arm_library,
    built,
    can_run_arm,
    needs_sanitizer,
    skip_without,
)

from clinreadnet.kernels.ops.attention_block.reference import attention_block_reference
from clinreadnet.kernels.ops.mlp.reference import mlp_reference
from clinreadnet.kernels.ops.sobel_stem.reference import sobel_stem_reference
from clinreadnet.model.attention import relative_position_index
from clinreadnet.model.soqn import encode

FP32 = 2e-6
"""Relative error: sums of up to 1536 float32 products, and functions within 1e-6."""
INT8 = 3e-2
"""Relative error in 8 bits. Normal weights, whose largest is about 3 deviations, in 64 levels are
off by 3 / 64 / 12 ** 0.5 = 1.4 %, activations in 255 by 6 / 255 / 12 ** 0.5 = 0.7 %: 1.5 % a
product, and twice that after the four products of a block."""

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler"
)
NAMES = [
    *(["avx512", "avx2", "wide"] if platform.machine() == "x86_64" else []),
    "plain",
    "arm64 neon",
    "arm64 plain",
]


@pytest.fixture(params=NAMES)
def runner(request: pytest.FixtureRequest) -> Runner:
    name: str = request.param
    if name.startswith("arm64") and platform.machine() != "aarch64":
        if not can_run_arm():
            pytest.skip(NO_ARM)
        if SANITIZER != "none":
            pytest.skip("the emulator does not run under a sanitizer")
        return Runner(arm_library(), name.split()[1], CROSS_C, EMULATE)
    library, name = built(), name.split()[-1]
    skip_without(name, library)
    if SANITIZER != "none":
        options = SANITIZERS[SANITIZER]
        return Runner(built(options=options), name, ("gcc", *options))
    return Runner(library, name)


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def as64(array: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


def error(actual: NDArray[np.float32], expected: torch.Tensor) -> float:
    assert np.isfinite(actual).all()
    wanted = expected.numpy()
    return float(np.linalg.norm(actual - wanted) / np.linalg.norm(wanted))


def block_case(
    slices: int, h: int, w: int, heads: int, d: int, shift: int, ratio: int = 4
) -> tuple[list[int], list[NDArray[np.float32]]]:
    rng = np.random.default_rng([slices, h, w, heads, d, shift])
    c, hidden = heads * d, ratio * heads * d
    tensors = [
        normal(rng, slices, h, w, c, scale=2) + 0.5,
        normal(rng, c) + 1,
        normal(rng, c),
        normal(rng, 3 * c, c, scale=c**-0.5),
        normal(rng, 3 * c),
        normal(rng, c, c, scale=c**-0.5),
        normal(rng, c),
        normal(rng, 225, heads),
        normal(rng, heads, scale=0.5),
        normal(rng, heads, 3),
        normal(rng, c) + 1,
        normal(rng, c),
        normal(rng, hidden, c, scale=c**-0.5),
        normal(rng, hidden),
        normal(rng, c, hidden, scale=hidden**-0.5),
        normal(rng, c),
    ]
    return [0, slices, h, w, c, heads, shift, hidden, 3], tensors


def block_reference(sizes: list[int], tensors: list[NDArray[np.float32]]) -> torch.Tensor:
    x, n1w, n1b, qw, qb, pw, pb, table, log_inverse, logits, *mlp = map(as64, tensors)
    _, _, _, _, _, _, shift, _, halves = sizes
    if halves & 1:
        position = table[relative_position_index(8)].permute(2, 0, 1)
        x = attention_block_reference(
            x, n1w, n1b, qw, qb, pw, pb, position, log_inverse.exp(), logits.softmax(-1),
            window=8, shift=shift, eps=1e-5,
        )  # fmt: skip
    return mlp_reference(x, *mlp, eps=1e-5) if halves & 2 else x


BLOCKS = [
    pytest.param((1, 8, 8, 3, 16, 0), id="one window"),
    pytest.param((1, 8, 8, 3, 16, 4), id="one shifted window"),
    pytest.param((3, 16, 24, 3, 16, 4), id="odd batch, H < W, shifted borders"),
    pytest.param((2, 24, 8, 2, 16, 4), id="W one window"),
    pytest.param((1, 16, 8, 6, 32, 0), id="heads of 32"),
    pytest.param((1, 8, 16, 24, 16, 4), id="the last stage's channels"),
]


@pytest.mark.parametrize("halves", [1, 2, 3], ids=["attention", "MLP", "block"])
@pytest.mark.parametrize("case", BLOCKS)
def test_block(runner: Runner, case: Any, halves: int) -> None:
    sizes, tensors = block_case(*case)
    sizes[-1] = halves
    expected = block_reference(sizes, tensors)
    for eight, limit in ((0, FP32), (1, INT8)):
        x = [tensors[0].copy(), *tensors[1:]]
        runner.run("block", [eight, *sizes[1:]], x)
        assert error(x[0], expected) < limit


def test_huge_scores_stay_finite(runner: Runner) -> None:
    sizes, tensors = block_case(1, 8, 8, 3, 16, 0)
    tensors[8] += 6  # inverse temperatures of about 400: softmax is one-hot at every octave
    expected = block_reference(sizes, tensors)
    runner.run("block", sizes, tensors)
    assert error(tensors[0], expected) < 1e-3  # scores of thousands, in float32


def test_products_at_the_ends_of_their_range(runner: Runner) -> None:
    """All channels of all queries and keys have one magnitude: sums of products are the largest."""
    sizes, tensors = block_case(1, 8, 8, 3, 32, 0)
    c = 96
    sizes[-1] = 1
    signs = np.where(np.arange(c) % 2, 1, -1).astype(np.float32)
    tensors[0][...] = np.where(np.arange(64) % 3, 1, -1).reshape(1, 8, 8, 1) * signs
    tensors[1:3] = np.ones(c, np.float32), np.zeros(c, np.float32)
    tensors[3][...], tensors[4][...], tensors[7][...] = 5 * signs / c, 0, 0
    expected = block_reference(sizes, tensors)
    for eight, limit in ((0, FP32), (1, INT8)):
        x = [tensors[0].copy(), *tensors[1:]]
        runner.run("block", [eight, *sizes[1:]], x)
        assert error(x[0], expected) < limit


def test_every_split_of_the_tasks_gives_the_same_bits(runner: Runner) -> None:
    sizes, tensors = block_case(1, 16, 16, 3, 16, 4)
    for eight in (0, 1):
        whole = [tensors[0].copy(), *tensors[1:]]
        tasks = runner.run("block", [eight, *sizes[1:]], whole)
        assert tasks == 4
        for cut in range(tasks + 1):
            split = [tensors[0].copy(), *tensors[1:]]
            runner.run("block", [eight, *sizes[1:]], split, cut, tasks)
            runner.run("block", [eight, *sizes[1:]], split, 0, cut)
            assert split[0].tobytes() == whole[0].tobytes()


@pytest.mark.parametrize(
    "slices, h, w, c", [(1, 2, 2, 16), (3, 6, 10, 48), (1, 16, 24, 96)], ids=["1", "45", "96"]
)
def test_merge(runner: Runner, slices: int, h: int, w: int, c: int) -> None:
    rng = np.random.default_rng(c)
    x = normal(rng, slices, h, w, c, scale=3)
    norm = [normal(rng, 4 * c) + 1, normal(rng, 4 * c)]
    weight = normal(rng, 2 * c, 4 * c, scale=(4 * c) ** -0.5)
    joined = as64(x).reshape(slices, h // 2, 2, w // 2, 2, c).transpose(2, 3).flatten(3)
    normalised = torch.nn.functional.layer_norm(joined, (4 * c,), *map(as64, norm))
    expected = torch.nn.functional.linear(normalised, as64(weight))
    for eight, limit in ((0, FP32), (1, INT8)):
        out = np.full((slices, h // 2, w // 2, 2 * c), np.nan, np.float32)
        runner.run("merge", [eight, slices, h, w, c], [x, out, *norm, weight])
        assert error(out, expected) < limit


@pytest.mark.parametrize(
    "slices, h, w, c", [(1, 32, 32, 48), (3, 64, 32, 32), (2, 32, 96, 96)], ids=["48", "32", "96"]
)
def test_stem(runner: Runner, slices: int, h: int, w: int, c: int) -> None:
    rng = np.random.default_rng(c)
    hu = normal(rng, slices, h, w, scale=400)
    weights = [
        normal(rng, c // 2, 4, 3, 3),
        normal(rng, c // 2),
        normal(rng, c, c // 2, 3, 3, scale=0.1),
        normal(rng, c),
        normal(rng, c) + 1,
        normal(rng, c),
    ]
    tokens = np.full((slices, h // 4, w // 4, c), np.nan, np.float32)
    statistics = np.full((slices, h // 32, w // 32, 2 * c), np.nan, np.float32)
    runner.run("stem", [slices, h, w, c], [hu, tokens, statistics, *weights])
    w1, b1, w2, b2, nw, nb = map(as64, weights)
    mid = sobel_stem_reference(encode(as64(hu))[:, None], w1, b1)
    wide = torch.nn.functional.conv2d(mid, w2, b2, stride=2, padding=1).permute(0, 2, 3, 1)
    expected = torch.nn.functional.layer_norm(wide, (c,), nw, nb)
    assert error(tokens, expected) < FP32
    tiles = expected.reshape(slices, h // 32, 8, w // 32, 8, c)
    variance, mean = torch.var_mean(tiles, dim=(2, 4), correction=0)
    assert error(statistics, torch.cat([mean, (variance + 1e-4).log() / 2], -1)) < FP32


@pytest.mark.parametrize("tokens, c", [(1, 48), (100, 128), (256, 384)])
def test_head(runner: Runner, tokens: int, c: int) -> None:
    rng = np.random.default_rng(tokens)
    x, norm = normal(rng, tokens, c, scale=3), [normal(rng, c) + 1, normal(rng, c)]
    weight, bias = normal(rng, 32, c, scale=c**-0.5), normal(rng, 32)
    normalised = np.full((tokens, c), np.nan, np.float32)
    votes = np.full((tokens, 32), np.nan, np.float32)
    runner.run("head", [tokens, c], [x, normalised, votes, *norm, weight, bias])
    plain = torch.nn.functional.layer_norm(as64(x), (c,))
    assert error(normalised, plain) < FP32
    wanted = (plain * as64(norm[0]) + as64(norm[1])) @ as64(weight).T + as64(bias)
    assert error(votes, wanted) < FP32


@needs_sanitizer
@pytest.mark.whole
def test_a_sample_under_sanitizers() -> None:
    options = SANITIZERS["sample"]
    runner = Runner(built(options=options, **SAMPLE), "plain", ("gcc", *options))
    test_block(runner, (1, 8, 8, 3, 16, 4), 3)
    test_merge(runner, 3, 6, 10, 48)
    test_stem(runner, 1, 32, 32, 48)
    test_head(runner, 100, 128)
