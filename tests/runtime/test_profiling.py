"""The stages that a profiler shows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import write_bundle

from clinreadnet.runtime import Session, profiling


def test_a_session_shows_its_self_test_and_its_runs(tmp_path: Path, shown: list[str]) -> None:
    hu = np.random.default_rng(0).normal(40, 300, (3, 512, 512))
    with Session(write_bundle(tmp_path / "bundle"), "onnxruntime-cpu", batch=2) as session:
        test = "self-test onnxruntime-cpu"
        assert shown[0] == f"+ {test}" and shown[-1] == f"- {test}"
        shown.clear()
        session.score(hu)
    stages = ["run 2 slices", "run 1 slices", "look at 3 slices"]
    assert shown == [line for name in stages for line in (f"+ {name}", f"- {name}")]


def test_without_nvtx_a_stage_does_nothing(
    monkeypatch: pytest.MonkeyPatch, shown: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)
    profiling.nvtx_annotate.cache_clear()
    with profiling.stage("anything"):
        pass
    assert shown == []


def test_the_package_takes_a_stage() -> None:
    pytest.importorskip("nvtx", reason="nvtx is not installed: the extra bench")
    profiling.nvtx_annotate.cache_clear()
    with profiling.stage("anything") as range_:
        assert range_ is not None
