"""The candidates that are timed on a GPU, chosen by their machine code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from clinreadnet.kernels.registry import OPS
from clinreadnet.tuning.shortlist import estimate, obstacle, shortlist

pytestmark = pytest.mark.compile

KEYS = ("fused_linear", "float16", "plain", "large")
GPU = {"capability": 90, "multiprocessors": 132}


def linear(m: int, n: int, k: int = 64, warps: int = 4, stages: int = 3) -> dict[str, Any]:
    return {"block_m": m, "block_n": n, "block_k": k, "num_warps": warps, "stages": stages}


SMALL, LARGE = linear(32, 32, stages=1), linear(128, 128, warps=8)


def test_a_larger_tile_reads_and_issues_less() -> None:
    small, large = (estimate(KEYS, config, **GPU) for config in (SMALL, LARGE))
    assert small.obstacle is large.obstacle is None
    assert large.cycles < small.cycles < math.inf


def test_few_programs_are_counted_on_the_busiest_multiprocessor() -> None:
    """A GPU of one multiprocessor needs as many times longer as there are programs."""
    config = linear(64, 64)
    many, single = (
        estimate(KEYS, config, capability=90, multiprocessors=count).cycles for count in (10**9, 1)
    )
    assert single / many > 100


def test_what_spills_or_does_not_compile_is_left_out() -> None:
    keys = ("window_attention", "float32", "128")
    base = {"num_warps": 4, "precision": "tf32x3"}
    spills = estimate(keys, base | {"block_m": 32}, capability=80, multiprocessors=108)
    assert spills.obstacle is not None and spills.obstacle.startswith("spills ")
    odd = estimate(keys, base | {"block_m": 48}, capability=80, multiprocessors=108)
    assert odd.obstacle is not None and odd.obstacle.startswith("does not compile: ")
    chosen = [base | {"block_m": rows} for rows in (48, 32, 16)]
    assert shortlist(keys, chosen, 3, capability=80, multiprocessors=108, processes=1) == [
        chosen[2]
    ]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, Any]]:
    """Choose between two candidates in two processes; return Triton's cache and the choice."""
    cache = tmp_path_factory.mktemp("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(cache))
        (chosen,) = shortlist(KEYS, [SMALL, LARGE], 1, **GPU, processes=2)
    return cache, chosen


def test_processes_choose_the_same(compiled: tuple[Path, Mapping[str, Any]]) -> None:
    assert shortlist(KEYS, [SMALL, LARGE], 1, **GPU, processes=1) == [compiled[1]] == [LARGE]


def test_what_is_chosen_is_compiled_for_every_shape(
    compiled: tuple[Path, Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, chosen = compiled
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    files = sorted(cache.rglob("*.cubin"))
    assert obstacle(KEYS, chosen, capability=90) is None
    assert sorted(cache.rglob("*.cubin")) == files != []


@pytest.mark.parametrize("name", sorted(OPS))
def test_the_configuration_in_use_can_be_counted(name: str) -> None:
    from bench.gpu_check.plan import TUNED
    from clinreadnet.kernels.launch import launch_config

    for entry in TUNED[name]:
        keys = (name, "float16", *entry.split("/"))
        config = launch_config("", 90, *keys)
        assert math.isfinite(estimate(keys, config, **GPU).cycles), keys
