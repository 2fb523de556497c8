"""Slices run in batches, and their outputs compared with a reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clinreadnet.precision import Limits
from clinreadnet.runtime.comparison import (
    compare_outputs,
    run_and_compare,
    run_batch,
    run_slices,
)


class Doubling:
    """A backend whose score is twice the first pixel of a slice. It records the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, hu: NDArray[Any]) -> dict[str, NDArray[Any]]:
        first = hu[:, 0, 0, 0]
        self.batches.append(first.tolist())
        return {"score": 2.0 * first}


def slices(n: int) -> NDArray[np.int16]:
    return np.full((n, 2, 2), np.arange(1, n + 1)[:, None, None], np.int16)


def test_a_small_batch_is_filled_up_with_its_last_slice() -> None:
    run = Doubling()
    assert run_batch(run, slices(2), 4)["score"].tolist() == [2, 4]
    assert run_batch(run, slices(4), 4)["score"].tolist() == [2, 4, 6, 8]
    assert run.batches == [[1, 2, 2, 2], [1, 2, 3, 4]]


def test_slices_run_in_batches_and_stay_in_order() -> None:
    run, progress = Doubling(), []
    outputs = run_slices(run, slices(5), batch=2, smallest=2, advance=progress.append)
    assert outputs["score"].tolist() == [2, 4, 6, 8, 10]
    assert run.batches == [[1, 2], [3, 4], [5, 5]]
    assert progress == [2, 2, 1]


def test_slices_are_read_when_their_turn_comes() -> None:
    run, read = Doubling(), []

    def reading() -> Any:
        for hu in slices(3):
            read.append(len(run.batches))
            yield hu

    run_slices(run, reading())
    assert read == [0, 1, 2]


def test_reproducing_is_within_the_limit_or_says_what_is_not() -> None:
    reference = {"score": np.array([2.0, 4.0, 6.0]), "label": np.zeros(3)}
    assert run_and_compare(Doubling(), slices(3), reference, Limits(0.0)).failures() == []
    reference["score"] = np.array([2.0, 4.0, 5.0])
    comparison = run_and_compare(Doubling(), slices(3), reference, Limits(1e-2))
    assert comparison.worst_score_difference == pytest.approx(1.0)
    assert comparison.failures() == ["score is off by 1.5e-01 (limit 1e-02)"]
    assert comparison.failures("budget") == ["score is off by 1.5e-01 (budget 1e-02)"]


def test_values_that_are_not_finite_are_outside_every_limit() -> None:
    outputs = {"score": np.array([np.nan, 1.0]), "probs": np.array([1.0])}
    comparison = compare_outputs(
        outputs, {"score": np.ones(2), "probs": np.ones(1)}, Limits(np.inf)
    )
    assert comparison.worst_score_difference == float("inf")
    assert comparison.errors == {"score": float("inf"), "probs": 0.0}
    alone = compare_outputs({"probs": outputs["probs"]}, outputs, Limits(1.0))
    assert alone.worst_score_difference is None
    assert alone.worst_tile_difference is None and alone.worst_novelty_difference is None
    nan = compare_outputs({"score": np.ones(1)}, {"score": np.array([np.nan])}, Limits(1.0))
    assert len(nan.failures()) == 1
    nan = compare_outputs({"novelty": np.array([np.nan])}, {"novelty": np.ones(1)}, Limits(1, 1, 1))
    assert nan.worst_novelty_difference == float("inf") and len(nan.failures()) == 2


def test_one_tile_and_one_slice_have_limits_of_their_own() -> None:
    """The error of the whole output hides a wrong tile of 512 and a wrong slice of 100."""
    maps = np.full((2, 16, 16), 3.0)
    novelty = np.full(100, 2.0)
    wrong = {"quality_map": maps.copy(), "novelty": novelty.copy()}
    wrong["quality_map"][1, 3, 4] -= 0.25
    wrong["novelty"][7] = 2.1
    reference = {"quality_map": maps, "novelty": novelty}
    comparison = compare_outputs(wrong, reference, Limits(0.01, 0.2, 0.04))
    assert max(comparison.errors.values()) < 0.006
    assert comparison.worst_tile_difference == pytest.approx(0.25)
    assert comparison.worst_novelty_difference == pytest.approx(0.05)
    assert comparison.failures() == [
        "a tile of quality_map is off by 2.5e-01 grades (limit 2e-01)",
        "a slice's novelty is off by 5.0e-02 of itself (limit 4.0e-02)",
    ]
    assert compare_outputs(wrong, reference, Limits(0.01, 0.26, 0.06)).failures() == []
    assert compare_outputs(wrong, reference, Limits(0.01)).failures() == []


def test_one_slice_is_compared_by_itself() -> None:
    """The error of all slices hides a wrong slice of 100, but not its own relative error."""
    reference = {"score": np.full(100, 2.0)}
    wrong = {"score": reference["score"].copy()}
    wrong["score"][42] += 0.1
    comparison = compare_outputs(wrong, reference, Limits(0.02, slice_error=0.02))
    assert comparison.errors["score"] == pytest.approx(0.005)
    assert comparison.slice_errors["score"] == pytest.approx(0.05)
    assert comparison.by_slice["score"].argmax() == 42
    assert comparison.failures() == ["a slice's score is off by 5.0e-02 (limit 2e-02)"]
    assert comparison.outside() == [42]
    assert comparison.failure_of(42) == "a slice's score is off by 5.0e-02 (limit 2e-02)"
    assert compare_outputs(wrong, reference, Limits(0.06, slice_error=0.06)).outside() == []
