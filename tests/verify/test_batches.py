"""Batches of verification: their sizes, and errors that single slices do not show."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from support.tiny_bundle import reference, write_bundle

from clinreadnet.precision import Limits
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.runtime.bundle.manifest import BatchRange
from clinreadnet.runtime.scores import Outputs
from clinreadnet.verify.batches import (
    batch_failures,
    odd_between,
    plan,
    planned,
    repeat_failure,
    run_batches,
    verified_range,
)
from clinreadnet.verify.reference import GoldenSlices
from clinreadnet.verify.report import print_report
from clinreadnet.verify.run import verify_golden

PROFILE = BatchRange(1, 4, 16)


@pytest.mark.parametrize(
    ("batch", "odd"),
    [
        pytest.param(BatchRange(1, 4, 16), 9, id="default"),
        pytest.param(BatchRange(1, 8, 8), 7, id="opt-is-max"),
        pytest.param(BatchRange(2, 2, 4), 3, id="one-between"),
        pytest.param(BatchRange(2, 3, 4), None, id="opt-is-it"),
        pytest.param(BatchRange(1, 1, 1), None, id="single"),
        pytest.param(BatchRange(1, 1, 2), None, id="none-between"),
    ],
)
def test_the_odd_size_lies_inside_and_is_none_of_the_others(
    batch: BatchRange, odd: int | None
) -> None:
    assert odd_between(batch) == odd


@pytest.mark.parametrize("slices", [1, 3, 16, 17, 32])
@pytest.mark.parametrize(
    "batch",
    [PROFILE, BatchRange(1, 1, 1), BatchRange(4, 8, 8), BatchRange(2, 3, 5)],
    ids=["default", "single", "from-four", "small"],
)
def test_the_plan_holds_every_size_every_slice_and_one_slice_everywhere(
    slices: int, batch: BatchRange
) -> None:
    batches = plan(slices, batch)
    sizes = {len(step.slices) for step in batches}
    assert sizes == {batch.min, batch.opt, batch.max, odd_between(batch) or batch.opt}
    most = [step.slices for step in batches if len(step.slices) == batch.max]
    once = -(-slices // batch.max)
    assert list(sum(most[:once], ()))[:slices] == list(range(slices))
    if batch.max > 1:
        assert len(set(most[-1])) == 1
    assert planned(slices, batch) == sum(len(step.slices) for step in batches)


def test_a_cpu_verifies_the_part_of_a_profile_that_it_can_hold() -> None:
    assert verified_range(PROFILE, None) == PROFILE
    assert verified_range(BatchRange(1, 64, 256), 16) == BatchRange(1, 16, 16)
    assert verified_range(BatchRange(16, 32, 64), 8) == BatchRange(16, 16, 16)


def slices_of(n: int) -> NDArray[np.int16]:
    rng = np.random.default_rng(5)
    means = np.linspace(-400, 200, n)[:, None, None]
    return rng.normal(means, 300, (n, 512, 512)).astype(np.int16)


class Wrong:
    """A backend that computes `support.tiny_bundle` with an error in batches."""

    def __init__(self, mistake: str) -> None:
        self.mistake = mistake

    def __call__(self, hu: NDArray[Any]) -> Outputs:
        out = {name: value.astype(np.float32) for name, value in reference(hu[:, 0]).items()}
        n = len(hu)
        if self.mistake == "ninth":
            out["score"][8:] += 0.5
        elif self.mistake == "neighbour":
            out["score"][1:] = out["score"][:-1].copy()
        elif self.mistake == "full-batch" and n == PROFILE.max:
            out["quality_map"][3, 0, 0] += 0.05
        elif self.mistake == "odd" and n % 2 and n > 1:
            out["novelty"] *= 1.01
        elif self.mistake == "leak":
            out["probs"] += 0.0035 * np.arange(n, dtype=np.float32)[:, None] / n
        return out


@pytest.mark.parametrize(
    ("mistake", "reason"),
    [
        pytest.param("none", None, id="none"),
        pytest.param("ninth", "batch 16, position 8, golden slice 8: a slice's score", id="ninth"),
        pytest.param("neighbour", "a slice's score is off", id="neighbour"),
        pytest.param(
            "full-batch",
            "batch 16, position 3, golden slice 3: a tile of quality_map is off",
            id="full-batch",
        ),
        pytest.param("odd", "batch 9, position", id="odd-size"),
    ],
)
def test_a_mistake_in_some_batches_is_named_with_slice_and_output(
    mistake: str, reason: str | None
) -> None:
    images = slices_of(10)
    slices = GoldenSlices(images)
    expected = reference(images)
    ran = run_batches(Wrong(mistake), slices, PROFILE)
    assert ran.sizes == [1, 4, 9, 16]
    failures = batch_failures(ran, expected, Limits(5e-3, 2e-2, 1.6e-3, 1e-2), slices.name)
    if reason is None:
        assert failures == {}
    else:
        assert any(reason in text for text in failures.values()), failures
        assert "batch 1" not in failures


def test_a_slice_that_fails_in_several_batches_is_named_once() -> None:
    images = slices_of(10)
    slices = GoldenSlices(images)
    expected = reference(images)
    fifth = expected["score"][5]

    def wrong(hu: NDArray[Any]) -> Outputs:
        out = {name: value.copy() for name, value in reference(hu[:, 0]).items()}
        out["score"][out["score"] == fifth] += 0.5
        return out

    failures = batch_failures(
        run_batches(wrong, slices, PROFILE), expected, Limits(1, slice_error=1e-2), slices.name
    )
    assert len(failures) > 1
    first, *others = failures.values()
    assert first.startswith("batch 16, position 5, golden slice 5: a slice's score is off by")
    assert all(text.endswith(", the same slice") for text in others), others


def test_a_slice_may_not_depend_on_its_neighbours() -> None:
    """A leak within the budget of 8 bits is visible if the same slice runs in another place."""
    images = slices_of(10)
    slices = GoldenSlices(images)
    expected = reference(images)
    limits = Limits(5e-2, 0.2, 1e-2, 0.1)
    leaking = run_batches(Wrong("leak"), slices, PROFILE)
    assert batch_failures(leaking, expected, limits, slices.name) == {}
    failure = repeat_failure(leaking, expected, limits, slices.name)
    assert failure is not None and "probs" in failure
    assert "depends on its batch: in batch" in failure
    right = run_batches(Wrong("none"), slices, PROFILE)
    assert repeat_failure(right, expected, limits, slices.name) is None


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_does_not_wait_for_a_batch() -> None:
    threads: list[threading.Thread] = []

    def busy(hu: NDArray[Any]) -> Outputs:
        threads.append(threading.current_thread())
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        hashlib.pbkdf2_hmac("sha512", b"word", b"salt", 2_000_000)  # no interrupt shortens it
        return reference(hu[:, 0])

    with pytest.raises(KeyboardInterrupt):
        run_batches(busy, GoldenSlices(slices_of(2)), BatchRange(1, 1, 2))
    assert threads[0] is not threading.main_thread() and threads[0].is_alive()


def test_a_golden_set_smaller_than_the_profile_fills_its_batches(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", batch=BatchRange(1, 4, 8), precisions=("fp32",))
    report = verify_golden(bundle, load_manifest(bundle))
    (artifact,) = report.artifacts
    assert artifact.parity is not None
    assert artifact.parity.details["batches"] == [1, 4, 5, 8]
    assert artifact.parity.details["slices"] == 3
    line = "3 slices are fewer than the profile's MAX, 8: batches repeat them"
    assert report.notes == (line,) and report.to_dict()["notes"] == [line]
    output = io.StringIO()
    print_report(report, Console(file=output))
    assert line in output.getvalue().splitlines()
    small = write_bundle(tmp_path / "small", batch=BatchRange(1, 2, 3), precisions=("fp32",))
    assert verify_golden(small, load_manifest(small)).notes == ()


def test_what_a_cpu_did_not_reach_is_noted(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", batch=BatchRange(1, 4, 64), precisions=("fp32",))
    (artifact,) = verify_golden(bundle, load_manifest(bundle)).artifacts
    assert artifact.parity is not None
    assert artifact.parity.details["batches"] == [1, 4, 9, 16]
    assert artifact.parity.details["note"] == (
        "batches above 16 were not run; the profile goes to 64"
    )


@pytest.mark.usefixtures("without_openvino")  # it does not load this graph of a few operators
def test_progress_counts_every_slice_that_runs(tmp_path: Path) -> None:
    from clinreadnet.verify.run import steps

    bundle = write_bundle(tmp_path / "b", batch=BatchRange(1, 2, 4), precisions=("fp32",))
    manifest = load_manifest(bundle)
    progress: list[int] = []
    verify_golden(bundle, manifest, progress.append)
    assert sum(progress) == steps(manifest, manifest.golden.slices, golden=True)
    larger = dataclasses.replace(
        manifest,
        artifacts=tuple(
            dataclasses.replace(a, batch=BatchRange(1, 2, 8)) for a in manifest.artifacts
        ),
    )
    assert steps(larger, 3, golden=False) > steps(manifest, 3, golden=False)
