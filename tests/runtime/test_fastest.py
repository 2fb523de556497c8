"""`Session(fastest=True)` keeps the fastest of the backends that work."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike
from support.tiny_bundle import write_bundle

from clinreadnet.errors import BackendUnavailable, Untrusted
from clinreadnet.runtime import Session, session
from clinreadnet.runtime.backends.ladder import Backend, LoadedBackend, open_backend
from clinreadnet.runtime.scores import Outputs

HU = np.random.default_rng(0).normal(40, 100, (2, 512, 512))
NAMES = ("tensorrt", "onnxruntime-cuda", "onnxruntime-cpu")


class Slower:
    """A backend that takes longer, and may be wrong."""

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
    """Make a session find these backends, each with its seconds a run and its error."""

    def prepare(**wanted: tuple[float, float]) -> dict[str, Slower]:
        found: dict[str, Slower] = {}

        def open_one(name: str, *arguments: Any) -> LoadedBackend:
            if name.replace("-", "_") not in wanted:
                raise BackendUnavailable(f"no {name} here")
            loaded = open_backend("onnxruntime-cpu", *arguments)
            found[name] = Slower(loaded.backend, *wanted[name.replace("-", "_")])
            return LoadedBackend(
                found[name],
                loaded.artifact,
                loaded.verdict,
                loaded.batch,
                loaded.machine,
                loaded.record if name == "onnxruntime-cpu" else None,
            )

        monkeypatch.setattr(session, "open_backend", open_one)
        return found

    return prepare


def test_the_fastest_is_kept_and_the_others_are_closed(
    bundle: Path, opened: Callable[..., dict[str, Slower]]
) -> None:
    found = opened(tensorrt=(0.2, 1), onnxruntime_cuda=(0.02, 1), onnxruntime_cpu=(0.1, 1))
    with Session(bundle, NAMES, fastest=True) as chosen:
        assert chosen.backend == "onnxruntime-cuda"
        assert set(chosen.refused) == {"tensorrt", "onnxruntime-cpu"}
        assert "slower: 2" in chosen.refused["tensorrt"]
        assert "onnxruntime-cuda takes" in chosen.refused["onnxruntime-cpu"]
        assert [one.closed for one in found.values()] == [True, False, True]
        assert len(chosen.score(HU).score) == 2
    assert all(one.closed for one in found.values())


def test_without_it_the_first_is_kept(
    bundle: Path, opened: Callable[..., dict[str, Slower]]
) -> None:
    opened(tensorrt=(0.05, 1), onnxruntime_cpu=(0, 1))
    with Session(bundle, NAMES) as chosen:
        assert chosen.backend == "tensorrt" and chosen.refused == {}


def test_what_is_wrong_or_missing_is_not_in_the_race(
    bundle: Path, opened: Callable[..., dict[str, Slower]]
) -> None:
    found = opened(onnxruntime_cuda=(0, 1.5), onnxruntime_cpu=(0.02, 1))
    with Session(bundle, NAMES, fastest=True) as chosen:
        assert chosen.backend == "onnxruntime-cpu"
        assert chosen.refused["tensorrt"] == "no tensorrt here"
        assert "self-test failed" in chosen.refused["onnxruntime-cuda"]
        assert found["onnxruntime-cuda"].closed


def test_a_bundle_that_was_changed_meanwhile_leaves_nothing_open(
    bundle: Path, opened: Callable[..., dict[str, Slower]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(tensorrt=(0, 1))
    open_one = session.open_backend

    def changed(name: str, *arguments: Any) -> LoadedBackend:
        if name == "onnxruntime-cuda":
            raise Untrusted("changed")
        return open_one(name, *arguments)

    monkeypatch.setattr(session, "open_backend", changed)
    with pytest.raises(Untrusted, match="changed"):
        Session(bundle, NAMES, fastest=True)
    assert found["tensorrt"].closed


def test_the_slices_that_are_told_are_those_of_the_chosen_one(
    bundle: Path, opened: Callable[..., dict[str, Slower]]
) -> None:
    """On the CPU one golden slice is run; on a GPU without a record all of them."""
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
