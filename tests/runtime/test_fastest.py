"""`Session(fastest=True)` chooses the fastest working backend within a budget."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike
from support.tiny_bundle import write_bundle

from clinreadnet.errors import BackendUnavailable, InputError, Untrusted
from clinreadnet.runtime import Session, choice
from clinreadnet.runtime.backends.loading import (
    Backend,
    LoadedBackend,
    SessionOptions,
    open_backend,
)
from clinreadnet.runtime.bundle.manifest import Manifest, Parity
from clinreadnet.runtime.scores import Outputs

HU = np.random.default_rng(0).normal(40, 100, (2, 512, 512))
NAMES = ("tensorrt", "onnxruntime-cuda", "onnxruntime-cpu")


class Slower:
    """A backend with a delay and optional errors."""

    def __init__(self, backend: Backend, seconds: float, factor: float) -> None:
        self._backend, self._seconds, self._factor = backend, seconds, factor
        self.closed = False

    def run(self, hu: ArrayLike) -> Outputs:
        time.sleep(self._seconds)
        outputs = self._backend.run(hu)
        return {**outputs, "score": outputs["score"] * np.float32(self._factor)}

    def close(self) -> None:
        self.closed = True
        self._backend.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Slower]]:
    """Replace the backends of a session by ones with the given seconds of a run and errors."""

    def prepare(**wanted: tuple[float, float]) -> dict[str, Slower]:
        runners: dict[str, Slower] = {}

        def open_one(name: str, *arguments: Any) -> LoadedBackend:
            if name.replace("-", "_") not in wanted:
                raise BackendUnavailable(f"no {name} here")
            loaded = open_backend("onnxruntime-cpu", *arguments)
            runners[name] = Slower(loaded.backend, *wanted[name.replace("-", "_")])
            return LoadedBackend(
                name,
                runners[name],
                loaded.artifact,
                loaded.verdict,
                loaded.batch,
                loaded.machine,
                loaded.record if name == "onnxruntime-cpu" else None,
            )

        monkeypatch.setattr(choice, "open_backend", open_one)
        return runners

    return prepare


def test_the_fastest_is_kept_and_the_others_are_closed(
    bundle: Path, opened: Callable[..., dict[str, Slower]]
) -> None:
    runners = opened(tensorrt=(0.2, 1), onnxruntime_cuda=(0.02, 1), onnxruntime_cpu=(0.1, 1))
    with Session(bundle, NAMES, fastest=True) as chosen:
        assert chosen.backend == "onnxruntime-cuda"
        assert set(chosen.refused) == {"tensorrt", "onnxruntime-cpu"}
        assert "slower: 2" in chosen.refused["tensorrt"]
        assert "onnxruntime-cuda takes" in chosen.refused["onnxruntime-cpu"]
        assert [runner.closed for runner in runners.values()] == [True, False, True]
        assert len(chosen.score(HU).score) == 2
    assert all(runner.closed for runner in runners.values())


def test_without_it_the_first_is_kept(
    bundle: Path, opened: Callable[..., dict[str, Slower]]
) -> None:
    opened(tensorrt=(0.05, 1), onnxruntime_cpu=(0, 1))
    with Session(bundle, NAMES) as chosen:
        assert chosen.backend == "tensorrt" and chosen.refused == {}


def test_what_is_wrong_or_missing_is_not_in_the_race(
    bundle: Path, opened: Callable[..., dict[str, Slower]]
) -> None:
    runners = opened(onnxruntime_cuda=(0, 1.5), onnxruntime_cpu=(0.02, 1))
    with Session(bundle, NAMES, fastest=True) as chosen:
        assert chosen.backend == "onnxruntime-cpu"
        assert chosen.refused["tensorrt"] == "no tensorrt here"
        assert "self-test failed" in chosen.refused["onnxruntime-cuda"]
        assert runners["onnxruntime-cuda"].closed


def test_a_bundle_that_was_changed_meanwhile_leaves_nothing_open(
    bundle: Path, opened: Callable[..., dict[str, Slower]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runners = opened(tensorrt=(0, 1))
    open_one = choice.open_backend

    def changed(name: str, *arguments: Any) -> LoadedBackend:
        if name == "onnxruntime-cuda":
            raise Untrusted("changed")
        return open_one(name, *arguments)

    monkeypatch.setattr(choice, "open_backend", changed)
    with pytest.raises(Untrusted, match="changed"):
        Session(bundle, NAMES, fastest=True)
    assert runners["tensorrt"].closed


def test_the_reported_self_test_is_that_of_the_chosen_backend(
    bundle: Path, opened: Callable[..., dict[str, Slower]]
) -> None:
    """The CPU backend runs a golden slice. A GPU backend without a record runs all of them."""
    opened(onnxruntime_cpu=(0, 1), onnxruntime_cuda=(0.05, 1))
    names = ("onnxruntime-cpu", "onnxruntime-cuda")
    with Session(bundle, names, fastest=True) as chosen:
        assert chosen.describe()["self_test_slices"] == 1


def test_where_nothing_works_the_reasons_are_given(
    bundle: Path, opened: Callable[..., dict[str, Slower]]
) -> None:
    opened()
    with pytest.raises(BackendUnavailable, match="no tensorrt here"):
        Session(bundle, NAMES, fastest=True)


Raced = Callable[..., dict[str, Slower]]


@pytest.fixture
def raced(monkeypatch: pytest.MonkeyPatch) -> Raced:
    """Set the seconds of a run, the error and the recorded error of each precision."""

    def prepare(**wanted: tuple[float, float, float | None]) -> dict[str, Slower]:
        runners: dict[str, Slower] = {}

        def open_one(
            name: str, bundle: Path, manifest: Manifest, options: SessionOptions
        ) -> LoadedBackend:
            loaded = open_backend(name, bundle, manifest, options)
            seconds, error, recorded = wanted[loaded.artifact.precision]
            runner = Slower(loaded.backend, seconds, 1 + error)
            runners[loaded.artifact.precision] = runner
            record = None
            if recorded is not None:
                record = Parity("passed", relative_error={"probs": 0.0, "score": recorded})
            return replace(loaded, backend=runner, record=record)

        monkeypatch.setattr(choice, "open_backend", open_one)
        return runners

    return prepare


def test_within_a_budget_a_less_exact_precision_may_win(bundle: Path, raced: Raced) -> None:
    runners = raced(fp32=(0.05, 0, None), fp16=(0, 3e-3, None))
    with Session(bundle, "onnxruntime-cpu", fastest=True, budget=1e-2) as chosen:
        assert chosen.artifact.precision == "fp16"
        assert "slower: 5" in chosen.refused["onnxruntime-cpu fp32"]
        assert "onnxruntime-cpu fp16 takes" in chosen.refused["onnxruntime-cpu fp32"]
        assert chosen.describe()["self_test_slices"] == 3, "an error that nobody recorded"
        assert runners["fp32"].closed and not runners["fp16"].closed


def test_what_is_over_the_budget_is_not_in_the_race(bundle: Path, raced: Raced) -> None:
    runners = raced(fp32=(0.05, 0, None), fp16=(0, 3e-3, None))
    with Session(bundle, "onnxruntime-cpu", fastest=True, budget=1e-3) as chosen:
        assert chosen.artifact.precision == "fp32"
        (reason,) = chosen.refused.values()
        assert re.fullmatch(r"off by (2\.9|3\.0|3\.1)e-03, budget=0\.001", reason)
        assert runners["fp16"].closed


@pytest.mark.parametrize(("recorded", "precision"), [(5e-4, "fp16"), (4e-3, "fp32")])
def test_the_recorded_error_counts_where_there_is_one(
    bundle: Path, raced: Raced, recorded: float, precision: str
) -> None:
    raced(fp32=(0.05, 0, 1e-7), fp16=(0, 0, recorded))
    with Session(bundle, "onnxruntime-cpu", fastest=True, budget=1e-3) as chosen:
        assert chosen.artifact.precision == precision
        assert chosen.describe()["self_test_slices"] == 1


def test_a_named_precision_is_the_only_one(bundle: Path, raced: Raced) -> None:
    runners = raced(fp32=(0.05, 0, None), fp16=(0, 0, None))
    with Session(bundle, "onnxruntime-cpu", "fp32", fastest=True, budget=1e-2) as chosen:
        assert chosen.artifact.precision == "fp32" and set(runners) == {"fp32"}


def test_a_budget_that_nothing_meets_names_the_closest(bundle: Path, raced: Raced) -> None:
    runners = raced(fp32=(0, 0, 2e-7), fp16=(0, 0, 3e-3))
    closest = "no artifact that works here is as accurate; the closest is onnxruntime-cpu fp32"
    with pytest.raises(InputError, match=rf"bundle: budget=1e-09: {closest}, off by 2.0e-07$"):
        Session(bundle, "onnxruntime-cpu", fastest=True, budget=1e-9)
    assert all(runner.closed for runner in runners.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 1e-2}, "budget=0.01: only with `fastest`"),
        ({"budget": 0.0, "fastest": True}, "budget=0: not a relative error above 0"),
        ({"budget": -1, "fastest": True}, "budget=-1: not a relative error above 0"),
        ({"budget": "1e-2", "fastest": True}, "budget='1e-2': not a number"),
        ({"budget": float("nan"), "fastest": True}, "budget=nan: not a relative error above 0"),
    ],
    ids=["alone", "zero", "negative", "text", "nan"],
)
def test_other_budgets_are_refused(bundle: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Session(bundle, **options)
