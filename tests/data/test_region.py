"""The part of the body that a slice shows, by its pixels and its header."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from support.drawn_regions import FOREIGN, abdomen, abdomen_with_arms, dome, hips, neck
from support.strange_slices import STRANGE, strange_slice

from clinreadnet.data.header_region import Hint
from clinreadnet.data.region import (
    ABDOMEN,
    EDGE,
    HEAD,
    OUTSIDE,
    TRUNK,
    UNSIZED,
    Region,
    find_body,
    find_region,
    measure_anatomy,
    with_header,
)
from clinreadnet.data.slices import find_slices

SIZES = pytest.mark.parametrize("pixel_mm", [0.75, None], ids=["sized", "unsized"])


def noisy(hu: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    return hu + np.random.default_rng(seed).normal(0, sigma, hu.shape).astype(np.float32)


@SIZES
@pytest.mark.parametrize("sigma", [0, 30, 120])
@pytest.mark.parametrize("draw", [abdomen, abdomen_with_arms])
def test_an_abdomen_is_known_in_any_noise(draw, sigma: float, pixel_mm: float | None) -> None:
    result = find_region(noisy(draw(), sigma), pixel_mm)
    assert (result.answer, result.reason) == (ABDOMEN, UNSIZED if pixel_mm is None else "")


def test_a_child_in_a_small_field_is_an_abdomen() -> None:
    result = find_region(noisy(abdomen(), 20), 0.45)
    assert result.answer == ABDOMEN and result.area_cm2 is not None and 200 < result.area_cm2 < 250


@SIZES
@pytest.mark.parametrize("sigma", [0, 60])
@pytest.mark.parametrize(("draw", "end"), [(dome, "dome of the liver"), (hips, "pelvis")])
def test_a_border_is_the_third_answer(draw, end: str, sigma: float, pixel_mm: float | None) -> None:
    result = find_region(noisy(draw(), sigma), pixel_mm)
    assert result.answer == EDGE and result.reason.endswith(f": {end}")


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])
@pytest.mark.parametrize("sigma", [0, 60])
@pytest.mark.parametrize("kind", FOREIGN)
def test_another_part_is_outside_for_its_own_reason(kind: str, sigma: float, sized: bool) -> None:
    draw, pixel_mm, end = FOREIGN[kind]
    result = find_region(noisy(draw(), sigma), pixel_mm if sized else None)
    assert result.answer == OUTSIDE and result.reason.rpartition(": ")[2] == end, result


def test_a_neck_is_known_by_its_size_alone() -> None:
    result = find_region(neck(), 0.5)
    assert (result.answer, result.area_cm2) == (OUTSIDE, pytest.approx(118, abs=5))
    assert result.reason.endswith("cm2: smaller than an abdomen")
    assert find_region(neck(), None).answer != OUTSIDE


@pytest.mark.parametrize("kind", [kind for kind in STRANGE if kind != "halved"])
def test_drawn_foreign_slices_are_outside(kind: str) -> None:
    answers = {find_region(strange_slice(kind, seed, abdomen())).answer for seed in range(5)}
    assert answers == {OUTSIDE}


@pytest.mark.parametrize("turn", ["mirrored", "prone", "shifted", "clipped", "whole numbers"])
def test_the_answer_does_not_hang_on_how_a_slice_lies(turn: str) -> None:
    for draw, answer in ((abdomen, ABDOMEN), (dome, EDGE), (FOREIGN["chest"][0], OUTSIDE)):
        hu = noisy(draw(), 20)
        turned = {
            "mirrored": hu[:, ::-1],
            "prone": hu[::-1],
            "shifted": np.roll(hu, (40, 12), (0, 1)),
            "clipped": hu.clip(-1000, 400),
            "whole numbers": np.rint(hu).astype(np.int16),
        }[turn]
        assert find_region(turned, 0.75).answer == answer


def test_measures_of_a_disc() -> None:
    y, x = np.indices((512, 512)) - 255.5
    hu = np.where(np.hypot(x, y) < 160, 40.0, -1000.0)
    result = measure_anatomy(hu, 1.0)
    assert result is not None and result.area_cm2 is not None
    assert result.area_cm2 == pytest.approx(np.pi * 160**2 / 100, rel=0.02)
    assert result.width == pytest.approx(1, abs=0.02)
    assert (result.cut, result.lung, result.bone, result.enclosed) == (0, 0, 0, 0)


def test_a_part_that_bone_surrounds_is_enclosed_and_one_with_a_gap_is_not() -> None:
    y, x = np.indices((512, 512)) - 255.5
    r = np.hypot(x, y)
    hu = np.where(r < 160, 40.0, -1000.0)
    hu[(r > 100) & (r < 120)] = 1000
    ring = measure_anatomy(hu)
    hu[(r > 100) & (r < 120) & (np.abs(y) < 12) & (x > 0)] = 40
    gap = measure_anatomy(hu)
    assert ring is not None and ring.enclosed == pytest.approx((100 / 160) ** 2, rel=0.06)
    assert gap is not None and gap.enclosed < 0.01


SOME = Region(ABDOMEN, "", 300.0)


@pytest.mark.parametrize(
    ("region", "hint", "answer"),
    [
        (Region(ABDOMEN, "", 600.0), Hint("head", "ProtocolName"), ABDOMEN),
        (SOME, Hint("head", "BodyPartExamined"), OUTSIDE),
        (SOME, Hint("chest", "BodyPartExamined"), ABDOMEN),
        (Region(ABDOMEN, UNSIZED), Hint("head", "BodyPartExamined"), ABDOMEN),
        (
            Region(EDGE, "bone is 9% of the body: pelvis", 500.0),
            Hint("limb", "ProtocolName"),
            OUTSIDE,
        ),
        (Region(EDGE, "lungs are 20% of the body: dome of the liver"), Hint("chest", "x"), EDGE),
        (Region(ABDOMEN, "", 600.0), Hint(quantity="a rcbf map"), OUTSIDE),
        (Region(OUTSIDE, "air", None), Hint(), OUTSIDE),
    ],
)
def test_a_header_settles_a_doubt_and_proves_nothing(
    region: Region, hint: Hint, answer: str
) -> None:
    result = with_header(region, hint)
    assert result.answer == answer
    assert result.reason.startswith(str(hint)) or result == region


SKULL = Region(OUTSIDE, "bone encloses 60% of the body: head", 260.0, HEAD)
CHEST = Region(OUTSIDE, "lungs are 50% of the body: chest", 640.0, TRUNK)
SMALL = Region(OUTSIDE, "a body of 120 cm2: smaller than an abdomen", 120.0, "")


@pytest.mark.parametrize(
    ("region", "hint", "part"),
    [
        (SOME, Hint(), TRUNK),
        (SOME, Hint("head", "x"), HEAD),
        (SOME, Hint("neck", "x"), ""),
        (Region(ABDOMEN, "", 600.0), Hint("head", "x"), TRUNK),
        (Region(ABDOMEN, "", 600.0), Hint(quantity="a rcbf map"), ""),
        (CHEST, Hint(), TRUNK),
        (CHEST, Hint("head", "x"), TRUNK),
        (SKULL, Hint(), HEAD),
        (SKULL, Hint("head", "x"), HEAD),
        (SKULL, Hint("neck", "x"), ""),
        (SKULL, Hint(trunk=True), ""),
        (SMALL, Hint(), ""),
        (SMALL, Hint("head", "x"), HEAD),
        (SMALL, Hint("limb", "x"), ""),
        (SMALL, Hint(trunk=True), TRUNK),
        (SMALL, Hint("chest", "x", trunk=True), TRUNK),
    ],
)
def test_the_part_is_certain_by_pixels_and_header_together(
    region: Region, hint: Hint, part: str
) -> None:
    assert with_header(region, hint).part == part


def test_the_part_of_drawn_slices() -> None:
    drawn = {kind: find_region(draw(), mm).part for kind, (draw, mm, _) in FOREIGN.items()}
    assert find_region(abdomen(), 0.75).part == find_region(dome(), 0.75).part == TRUNK
    assert {kind for kind, part in drawn.items() if part == HEAD} == {"head"}
    assert {kind for kind, part in drawn.items() if part == TRUNK} == {"chest", "shoulders"}


def test_it_takes_five_milliseconds_at_most() -> None:
    hu = noisy(abdomen(), 30)
    find_region(hu, 0.7)
    spent = []
    for _ in range(15):
        start = time.thread_time()
        find_region(hu, 0.7)
        spent.append(time.thread_time() - start)
    assert min(spent) < 5e-3


ANSWERS = {
    "tcga": ({ABDOMEN, EDGE}, None),
    "abdomen-ge": ({ABDOMEN, EDGE}, {"CT20", "CT21", "CT22", "CT23", "CT27"}),
    "liver-dome": ({EDGE}, None),
    "head-ge": ({OUTSIDE}, None),
    "enhanced-ct": ({OUTSIDE}, None),
    "chest-lidc": ({OUTSIDE}, {"000015", "000030", "000070", "000095", "000120"}),
}


def test_a_hollow_table_is_not_a_body() -> None:
    hu = abdomen()
    alone = find_body(hu)
    hu[430:500, 60:450] = 100
    hu[438:492, 68:442] = -1000
    assert np.array_equal(find_body(hu), alone)
    chest = FOREIGN["chest"][0]()
    assert find_body(chest)[256, 256]


@pytest.mark.skipif(
    "CLINREADNET_REAL_DATA" not in os.environ,
    reason="CLINREADNET_REAL_DATA does not name a folder of real slices",
)
@pytest.mark.parametrize("folder", ANSWERS)
def test_real_slices_get_the_answer_that_a_person_gives(folder: str) -> None:
    answers, names = ANSWERS[folder]
    data = Path(os.environ["CLINREADNET_REAL_DATA"])
    for ref in find_slices([data / folder], resample=True):
        listed = names is None or ref.path.stem in names
        hu = ref.load()
        for size in (ref.loaded_mm, None):
            result = find_region(hu, size)
            assert (result.answer in answers) == listed, f"{ref.name}: {result}"
