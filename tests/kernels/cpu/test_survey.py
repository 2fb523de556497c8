"""Counts and anatomy of a slice in the native library against those in NumPy, bit for bit."""

from __future__ import annotations

import ctypes
import functools
import itertools
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import astuple, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from support.drawn_regions import FOREIGN, abdomen, abdomen_with_arms, dome, hips
from support.native import (
    CROSS_C,
    EMULATE,
    NO_ARM,
    ROOT,
    arm_library,
    built,
    can_run_arm,
    compiled,
    skip_without,
)
from support.strange_slices import STRANGE, strange_slice

from clinreadnet import library as engine_library
from clinreadnet import limits
from clinreadnet.data import region
from clinreadnet.data.plausibility import PixelCounts, count_pixels
from clinreadnet.data.region import Anatomy, find_region, measure_anatomy
from clinreadnet.data.survey import Survey, survey

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler"
)
NAMES = [
    *(["avx512", "avx2", "wide"] if platform.machine() == "x86_64" else ["neon"]),
    "plain",
]
SIDE = 512


@functools.cache
def images() -> dict[str, NDArray[np.float32]]:
    """Return slices: drawn bodies, borders of the ranges, random islands, mazes and others."""
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 40, (SIDE, SIDE))
    drawn = {f.__name__: f() + noise for f in (abdomen, abdomen_with_arms, dome, hips)}
    drawn |= {kind: FOREIGN[kind][0]() + noise for kind in FOREIGN}
    drawn |= {f"strange {kind}": strange_slice(kind, 1, abdomen()) for kind in STRANGE}
    cells = rng.random((SIDE // 4, SIDE // 4))
    for share in (0.02, 0.1, 0.4, 0.6, 0.95):
        drawn[f"islands {share}"] = np.where(cells < share, 40, -1000).repeat(4, 0).repeat(4, 1)
    blocks = np.where(rng.random((16, 16)) < 0.5, rng.uniform(-1100, 1500, (16, 16)), -1000)
    drawn["blocks"] = blocks.repeat(32, 0).repeat(32, 1) + noise
    maze = np.full((SIDE, SIDE), -1000.0)
    maze[8:504, 8:504] = 30
    for turn in range(5):  # air winds into the body from its border
        a, b = 40 + 40 * turn, 472 - 40 * turn
        maze[a : a + 12, a - 40 : b] = maze[a:b, b - 12 : b] = maze[b - 12 : b, a:b] = -1000
    drawn["maze"] = maze
    borders = [-1025.5, -1000, -301, -300.5, -300, -30.5, -30, -29.9, 400, 400.9, 401, 699.9, 700]
    drawn["borders"] = rng.choice(np.array([*borders, 3072.5, 30000, -960, -500, 250]), noise.shape)
    limit = rng.choice([-960.0, -500, -400, -150, -30, 180, 250, 330, 40], cells.shape)
    limit[:20] = limit[-20:] = limit[:, :20] = limit[:, -20:] = -1000
    limit[20:24, 20:-20] = limit[-24:-20, 20:-20] = limit[20:-20, 20:24] = 40  # a closed body
    limit[20:-20, -24:-20] = 40
    drawn["limits"] = limit.repeat(4, 0).repeat(4, 1)
    drawn |= {"air": np.full((SIDE, SIDE), -1000.0), "tissue": np.full((SIDE, SIDE), 40.0)}
    return {name: np.ascontiguousarray(image, np.float32) for name, image in drawn.items()}


def from_numpy(hu: NDArray[np.float32]) -> tuple[PixelCounts, Anatomy | None]:
    """Return counts and anatomy of the code without the library: float64 is not for the library."""
    wide = hu.astype(np.float64)
    counts = count_pixels(wide)
    return replace(counts, levels=min(counts.levels, limits.LEVELS)), measure_anatomy(wide, 0.7)


def assert_same(native: Survey, hu: NDArray[np.float32], what: str) -> None:
    counts, anatomy = from_numpy(hu)
    for name in ("low", "high", "levels", "soft", "light", "dense"):
        assert getattr(native, name) == getattr(counts, name), (what, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(region, "survey", lambda hu, anatomy: native)
        mine = measure_anatomy(hu, 0.7)
    assert (mine is None) == (anatomy is None), what
    if mine is not None and anatomy is not None:
        np.testing.assert_allclose(astuple(mine), astuple(anatomy), rtol=1e-14, atol=1e-15)


@pytest.fixture(params=NAMES)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name: str = request.param
    skip_without(name, built())
    monkeypatch.setattr(engine_library, "LIBRARY", built())
    monkeypatch.setenv(engine_library.INSTRUCTIONS_VARIABLE, name)
    yield name


def test_it_measures_as_numpy_does(instructions: str) -> None:
    bodies = 0
    for name, hu in images().items():
        native = survey(hu, anatomy=True)
        assert native is not None
        assert_same(native, hu, f"{name} {instructions}")
        bodies += native.area > 0
        whole = np.ascontiguousarray(np.rint(hu).clip(-(2**15), 2**15 - 1), np.int16)
        short = survey(whole, anatomy=True)
        assert short is not None
        assert_same(short, whole.astype(np.float32), f"{name} {instructions} int16")
        for dtype in ("i4", ">i4", "i8"):
            other = survey(np.asfortranarray(whole, dtype), anatomy=True)
            assert other is not None and bytes(other) == bytes(short), dtype
    assert bodies > 20  # else the anatomy was not compared


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [(0, 0), (511, 511), (200, 17)])
def test_a_pixel_that_is_no_number_is_seen(
    value: float, at: tuple[int, int], instructions: str
) -> None:
    hu = images()["abdomen"].copy()
    hu[at] = value
    native = survey(hu, anatomy=True)
    assert native is not None and not native.finite and native.area == 0
    assert not count_pixels(hu).finite
    assert not count_pixels(hu.astype(np.float64)).finite


def test_the_answers_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_library, "LIBRARY", built())
    with_library = {name: find_region(hu, 0.7) for name, hu in images().items()}
    monkeypatch.setattr(engine_library, "LIBRARY", built().with_name("none.so"))
    assert survey(images()["air"], anatomy=False) is None
    assert {name: find_region(hu, 0.7) for name, hu in images().items()} == with_library


def test_instructions_that_are_not_here_are_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_library, "LIBRARY", built())
    expected = count_pixels(images()["abdomen"])
    monkeypatch.setenv(engine_library.INSTRUCTIONS_VARIABLE, "sse9")
    assert survey(images()["abdomen"], anatomy=True) is None
    counts = count_pixels(images()["abdomen"])
    assert replace(counts, levels=limits.LEVELS) == expected


def test_another_size_dtype_or_order_is_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_library, "LIBRARY", built())
    hu = images()["abdomen"]
    for other in (hu[:256, :256], hu[None], hu.T, hu.astype(np.float64), hu.astype(">f4")):
        assert survey(other, anatomy=False) is None
    assert survey(hu, anatomy=False) is not None


def test_arm64_measures_the_same() -> None:
    if not can_run_arm():
        pytest.skip(NO_ARM)
    program = compiled(ROOT / "tests/native/survey.c", arm_library(), CROSS_C)
    names = ["abdomen", "maze", "blocks", "borders"]
    for instructions, dtype in itertools.product(("neon", "plain"), (np.float32, np.int16)):
        slices = [images()[name] for name in names]
        if dtype is np.int16:
            slices = [np.rint(hu).astype(dtype) for hu in slices]
        sent = b"".join(hu.tobytes() for hu in slices)
        command = [*EMULATE, str(program), instructions, "1" if dtype is np.int16 else "0"]
        answer = subprocess.run(command, input=sent, capture_output=True, check=True).stdout
        size = ctypes.sizeof(Survey)
        for number, (name, hu) in enumerate(zip(names, slices, strict=True)):
            native = Survey.from_buffer_copy(answer, number * size)
            assert_same(native, hu.astype(np.float32), f"{name} arm64 {instructions} {dtype}")
