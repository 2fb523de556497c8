"""The soak test: threads share a session, and growth is reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.bodies import body
from support.tiny_bundle import write_bundle

from bench.records import soak
from bench.records.soak import Sample
from clinreadnet.runtime import Session

CALLS = range(500, 50_001, 500)
BASE = 200 * 2**20


def samples(leak: float = 0) -> list[Sample]:
    """Return a run whose memory grows in the warm-up and then by some bytes in each call."""
    noise = np.random.default_rng(0).normal(0, 2**20, len(CALLS))
    warm = [min(calls / 5000, 1) * 50 * 2**20 for calls in CALLS]
    return [
        Sample(calls, int(BASE + warm[i] + leak * calls + noise[i]), 9)
        for i, calls in enumerate(CALLS)
    ]


def test_a_flat_run_passes() -> None:
    assert soak.failures(samples()) == []


def test_a_leak_of_one_score_a_call_fails() -> None:
    (failure,) = soak.failures(samples(leak=1200))
    assert failure.startswith("memory grew by 4")


def test_a_file_left_open_fails() -> None:
    run = samples()
    run[-1] = Sample(run[-1].calls, run[-1].resident, 10)
    assert soak.failures(run) == ["9 to 10 open files, which should stay the same"]


def test_threads_share_a_session(tmp_path: Path) -> None:
    slices = np.stack([body(40 + 10 * i) for i in range(8)]).astype(np.int16)
    bundle = write_bundle(tmp_path / "bundle")
    with Session(bundle, "onnxruntime-cpu", workers=2, threads=1) as session:
        taken = soak.soak(session, slices, calls=64, threads=16, seed=0, samples=8)
    assert [sample.calls for sample in taken] == list(range(8, 65, 8))
    assert len({sample.files for sample in taken}) == 1


def test_a_wrong_score_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slices = np.stack([body(40 + 10 * i) for i in range(8)]).astype(np.int16)
    with Session(write_bundle(tmp_path / "bundle"), "onnxruntime-cpu", threads=1) as session:
        right, calls = session.score, 0

        def swapped(hu: np.ndarray) -> object:
            nonlocal calls
            calls += 1
            return right(hu if calls < 5 else hu + 10)

        monkeypatch.setattr(session, "score", swapped)
        with pytest.raises(AssertionError, match="call "):
            soak.soak(session, slices, calls=64, threads=2, seed=0, samples=8)
